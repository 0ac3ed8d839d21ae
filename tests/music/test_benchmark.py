"""The table of estimators: its numbers are those of the functions it calls, and bad input is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from rislab.cli.main import main
from rislab.data.grid import Grid
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music import benchmark
from rislab.music.crb import crb
from rislab.music.estimate import Estimate
from rislab.music.metrics import crb_recall, match
from rislab.music.model_order import model_order
from rislab.music.posterior import sample_posterior
from rislab.music.sparse import sparse
from rislab.training import run_folder
from rislab.training.config import TrainConfig

CONFIG = SceneConfig.preset("classroom")
QUICK = ["localise", "--preset", "classroom", "--snr", "20", "--sources", "1", "--threads", "1"]


def nearly_true(batch: SceneBatch, sources: int, grid: Grid) -> Estimate:
    """The truth, one degree off in azimuth, its first source missing."""
    active = batch.active.clone()
    active[:, 0] = False
    return Estimate(batch.azimuth + math.radians(1), batch.elevation, batch.range, batch.power, active)


@pytest.mark.slow
def test_a_score_is_what_match_and_bound_say() -> None:
    scores = list(
        benchmark.compare(
            CONFIG, snr_db=[10.0], sources=[2, 3], scenes=70, seed=4, estimators={"nearly_true": nearly_true}
        )
    )
    assert [(score.sources, score.scenes, score.estimator) for score in scores] == [
        (2, 70, "nearly_true"),
        (3, 70, "nearly_true"),
    ]
    for score in scores:
        config = SceneConfig.preset("classroom", sources=score.sources, snr_db=10.0)
        batch = simulate(config, 70, seed=4, split="test")
        matching, limit = match(nearly_true(batch, 0, benchmark.search_grid(config)), batch), crb(batch)
        assert score.recall == matching.recall == pytest.approx(1 - 1 / score.sources)
        assert score.precision == 1.0
        assert score.allowed == crb_recall(batch, limit)
        assert score.median["azimuth"] == pytest.approx(1.0, abs=1e-4)
        assert score.ratio == matching.ratio(crb(batch, kind="stochastic"))
        assert 0.5 < score.truncation <= 1.0
        # The truth with its first source missing leaves that source.
        assert score.residual > 2
        assert score.counted == float((model_order(batch, 4) == score.sources).float().mean())
        assert score.milliseconds >= 0


@pytest.mark.slow
def test_every_estimator_runs_and_polishing_reaches_the_bound() -> None:
    scores = {
        score.estimator: score
        for score in benchmark.compare(
            CONFIG, snr_db=[20.0], sources=[1], scenes=40, seed=1, estimators=benchmark.ESTIMATORS
        )
    }
    assert set(scores) == set(benchmark.ESTIMATORS)
    assert scores["truth + MUSIC"].recall == 1.0
    assert scores["truth + MUSIC"].median["azimuth"] < 1e-3
    # 40 errors scatter their RMS by 11 %; three times that.
    assert scores["sparse + polish"].recall >= scores["sparse + polish"].allowed - 0.03
    assert scores["sparse + polish"].ratio["azimuth"] < 1.35
    assert scores["sparse + polish"].residual == pytest.approx(1.0, abs=0.05)
    assert scores["sample + beam"].ratio["azimuth"] > scores["sample + MUSIC + polish"].ratio["azimuth"]


@pytest.mark.slow
def test_scenes_are_the_same_for_every_estimator_and_do_not_depend_on_the_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {name: benchmark.ESTIMATORS[name] for name in ("sample + MUSIC",)}
    arguments = {"snr_db": [10.0], "sources": [2], "scenes": 30, "seed": 2, "estimators": names}
    full = list(benchmark.compare(CONFIG, **arguments))  # type: ignore[arg-type]
    monkeypatch.setattr(benchmark, "CHUNK", 7)
    parts = list(benchmark.compare(CONFIG, **arguments))  # type: ignore[arg-type]
    assert (full[0].recall, full[0].allowed) == (parts[0].recall, parts[0].allowed)
    assert full[0].ratio == pytest.approx(parts[0].ratio, rel=1e-3)


def test_bad_cells_are_named() -> None:
    for arguments, message in (
        ({"snr_db": [], "sources": [1], "scenes": 3}, "snr_db is empty"),
        ({"snr_db": [0.0], "sources": [], "scenes": 3}, "sources is empty"),
        ({"snr_db": [0.0], "sources": [1], "scenes": 0}, "scenes is 0"),
        ({"snr_db": [0.0], "sources": [0], "scenes": 3}, "sources is 0"),
        ({"snr_db": [900.0], "sources": [1], "scenes": 3}, "snr_db is 900"),
    ):
        with pytest.raises(InputError, match=message):
            list(benchmark.compare(CONFIG, **arguments))  # type: ignore[arg-type]


@pytest.mark.slow
def test_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*QUICK, "--scenes", "8"]
    assert main([*arguments, "--estimators", "truth + MUSIC", "sparse + polish"]) == 0
    printed = capsys.readouterr().out
    assert "conventions: 16 of 16 checks hold" in printed
    assert "equal powers, sources at any distance" in printed and "within 5° / 5° / 1 m" in printed
    lines = printed.splitlines()
    assert [line.split("  ")[0] for line in lines if " + " in line] == ["truth + MUSIC", "sparse + polish"]
    assert lines[-1].split() == ["20", "1", "1.000", "1.00", "–"]
    assert lines[-2].split() == ["dB", "K", "counted", "range", "cut", "Bayes", "finds"]
    assert main([*arguments, "--estimators", "sparse", "--json", "-p", "wavefront", "planar"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["config"]["wavefront"] == "planar"
    assert plain["scores"][0]["estimator"] == "sparse"
    assert plain["scores"][0]["recall"] == 1.0
    assert all(check["passed"] for check in plain["conventions"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--estimators", "magic"], "estimators is 'magic'"),
        (["--preset", "huge"], "preset is 'huge'"),
        (["--threads", "0"], "threads is 0"),
        (["-p", "rician", "3"], "rician is not a field"),
        (["-p", "rician_factor", "[1"], "rician_factor"),
        (["--sources", "0"], "sources is 0"),
        (["--tolerances", "5", "5", "0"], "tolerances is 0"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_command_names_bad_input(extra: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["localise", "--preset", "classroom", "--scenes", "2", "--snr", "20", "--threads", "1", *extra]) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1


def test_a_failed_convention_gives_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rislab.sanity import conventions

    monkeypatch.setattr(conventions, "STEP", 10.0)  # finite differences that are none
    arguments = [*QUICK, "--scenes", "2"]
    assert main([*arguments, "--estimators", "truth + MUSIC"]) == 1
    assert "FAIL bound" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_folder_adds_its_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = simulate(CONFIG, 16, seed=0)
    model = CovarianceNet.build(CONFIG)
    list(run_folder.train(tmp_path / "run", model, data, TrainConfig(epochs=1, micro_batch=8)))
    loaded, scenes = run_folder.load_model(tmp_path / "run")
    assert scenes == CONFIG
    torch.testing.assert_close(loaded.predict(data), model.predict(data))
    arguments = ["localise", "--scenes", "4", "--snr", "20", "--sources", "1", "--estimators", "truth + MUSIC"]
    folder = ["--run", str(tmp_path / "run"), "--threads", "1"]
    assert main([*arguments, "--preset", "classroom", *folder]) == 0
    assert "learned + MUSIC + polish" in capsys.readouterr().out
    assert main([*arguments, "--preset", "full", *folder]) == 2
    assert "preset is 'full'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_bayesian_estimate_expects_hits_within_the_tolerances_of_the_table() -> None:
    batch = simulate(SceneConfig.preset("classroom", sources=2, snr_db=0), 2, seed=0)
    start, grid = sparse(batch, 2), batch.config.grid((3, 3, 3))
    for tolerances in ((0.02, 0.02, 0.1), (0.3, 0.3, 2.0)):
        places = benchmark.make_estimator("sparse + Bayes", tolerances=tolerances)(batch, 2, grid)
        assert torch.equal(places.azimuth, sample_posterior(batch, start).expected_hits(tolerances).azimuth)
