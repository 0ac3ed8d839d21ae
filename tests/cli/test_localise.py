"""`rislab localise` on a measurement of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rislab.cli.main import main
from rislab.data.measurement_files import template_fields


def written(path: Path, **changes: object) -> str:
    np.savez(path, **{name: value for name, value in (template_fields() | changes).items() if value is not None})
    return str(path)


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_a_template_is_written_and_located(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / f"mine{suffix}")
    assert main(["localise", "--template", file]) == 0
    assert f"rislab localise --data {file}" in capsys.readouterr().out
    assert main(["localise", "--data", file]) == 0
    out = capsys.readouterr().out
    assert "24 snapshots at 2 antennas, 16 elements, spherical waves of 0.1 m, constant symbols" in out
    assert "1 source (counted by BIC)" in out
    row = next(line for line in out.splitlines() if line.startswith("1  "))
    assert abs(float(row.split()[1]) - np.rad2deg(0.4)) < 1 and row.count("±") == 4
    assert "the model explains the data down to the noise" in out
    assert main(["localise", "--template", file]) == 2


def test_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "mine.npz")
    assert main(["localise", "--data", file, "--sources", "1", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["measurements"]
    assert one["counted"] is False and one["hint"] == "" and len(one["sources"]) == 1
    assert one["residual"]["explained"] > 0.9


def test_an_angle_that_the_data_do_not_tell_has_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    # Along the line its phases tell nothing of the angle to first order.
    endfire = np.exp(1j * np.pi * np.arange(10))
    noise = rng.normal(size=(50, 10)) + 1j * rng.normal(size=(50, 10))
    snapshots = rng.normal(size=(50, 1)) * endfire + 0.1 * noise
    line = np.stack([np.zeros(10), np.arange(10) * 0.05 - 0.225, np.zeros(10)], axis=1)
    changes = dict.fromkeys(("codes", "channel", "rows", "columns", "spacing", "noise_power", "symbols"))
    file = written(tmp_path / "mine.npz", snapshots=snapshots, elements=line, **changes)
    main(["localise", "--data", file, "--sources", "1"])
    row = next(text for text in capsys.readouterr().out.splitlines() if text.startswith("1  "))
    assert row.split()[1:3] == ["not", "known"]


def test_a_mistake_of_convention_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = np.conj(template_fields()["codes"])
    main(["localise", "--data", written(tmp_path / "mine.npz", codes=codes), "--sources", "1"])
    assert "of the energy if the codes are conjugated" in capsys.readouterr().out


@pytest.mark.slow
def test_a_path_past_the_surface_is_named_and_taken_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "mine.npz", snapshots=template_fields()["snapshots"] + 9.0)
    main(["localise", "--data", file, "--sources", "1"])
    assert "--centred" in capsys.readouterr().out
    assert main(["localise", "--data", file, "--sources", "1", "--centred"]) == 0
    out = capsys.readouterr().out
    assert "the model explains the data down to the noise" in out and "if what does not change" not in out


@pytest.mark.slow
def test_noise_is_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((200, 2)) + 1j * rng.standard_normal((200, 2))
    codes = np.exp(2j * np.pi * rng.random((200, 16)))
    file = written(tmp_path / "noise.npz", snapshots=noise, codes=codes, noise_power=None)
    assert main(["localise", "--data", file]) == 1
    assert "the model does not explain the data" in capsys.readouterr().out


def test_a_batch_is_located_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshots = np.stack([template_fields()["snapshots"]] * 2)
    assert main(["localise", "--data", written(tmp_path / "two.npz", snapshots=snapshots), "--sources", "1"]) == 0
    out = capsys.readouterr().out
    assert "2 measurements of 24 snapshots" in out and "measurement 1" in out


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "mine.npz")
    for words, said in (
        (["--data", str(tmp_path / "none.npz")], "is no file"),
        (["--data", file, "--sources", "1", "2"], "sources is [1, 2]; allowed with --data: one number"),
        (["--data", file, "--sources", "40"], "sources is 40; allowed"),
        (["--data", file, "--sources", "0"], "sources is 0; allowed"),
        (
            ["--data", file, "--weights", "shipped"],
            "--weights is given with --data, where it has no effect; allowed: --sources",
        ),
        (["--data", file, "--preset", "full"], "--preset is given with --data"),
        (["--data", file, "-p", "rician_factor", "1"], "-p is given with --data"),
        (["--template", str(tmp_path / "new.npz"), "--data", file], "--data is given with --template"),
        (["--centred"], "--centred is given without a measurement"),
        (["--data", written(tmp_path / "b.npz", codes=None)], "b.npz: codes is missing"),
        (["--template", str(tmp_path / "a.txt")], "ends in '.txt'"),
    ):
        assert main(["localise", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_numbers_with_an_exponent_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    cell = ["--scenes", "1", "--snr", "20", "--sources", "1", "--estimators", "truth + MUSIC", "--json"]
    assert main(["localise", *cell, "-p", "range", "[0.5, 1e9]"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["range"] == [0.5, 1e9]
