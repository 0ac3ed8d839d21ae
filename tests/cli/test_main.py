"""The command line as a user meets it: exit codes, one sentence for bad input, JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rislab.cli.main import main
from rislab.training import run_folder
from rislab.training.records import step_records

QUICK = ["overfit", "--scenes", "64", "--epochs", "3"]


def test_alone_it_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    for command in ("overfit", "report", "info"):
        assert command in said


def test_info_reports_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__
    assert found["widgets"] == "yes"
    assert main(["info"]) == 0
    assert "threads" in capsys.readouterr().out


def test_exit_code_is_that_of_the_rungs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--only", "splits", "oracle", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in found["checks"]] == ["splits", "oracle"]
    assert found["passed"] is True
    assert found["config"]["scenes"] == 64
    # Three steps cannot learn 64 scenes by heart.
    assert main([*QUICK, "--only", "whole set"]) == 1
    said = capsys.readouterr().out
    assert "FAIL whole set" in said
    assert "0 of 1 checks hold" in said


@pytest.mark.slow
def test_json_stays_readable_when_a_number_is_not_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--lr", "1e5", "--epochs", "40", "--only", "whole set", "--json"]) == 1
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["passed"] is False


def test_log_is_the_console_view(capsys: pytest.CaptureFixture[str]) -> None:
    main([*QUICK, "--only", "whole set", "--log"])
    said = capsys.readouterr().out
    assert said.count("[LOSS] loss_nmse=") == said.count("[GRAD] backbone=") == said.count("Epoch 00") == 3


def test_notes_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    main([*QUICK, "--accumulation-steps", "99", "--only", "splits"])
    assert "note: accumulation_steps is 99, and an epoch has 1 micro-batches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["overfit", "--accumulation-steps", "0"], "accumulation_steps is 0; allowed"),
        (["overfit", "--micro-batch", "1000"], "micro_batch is 1000; allowed"),
        (["overfit", "--precision", "fp8"], "precision is 'fp8'; allowed"),
        (["overfit", "--preset", "tiny"], "preset is 'tiny'; allowed"),
        (["overfit", "--device", "cuda:77"], "device is 'cuda:77'; allowed"),
        (["overfit", "--threads", "0"], "threads is 0; allowed"),
        (["overfit", "--seed", "-1"], "seed is -1; allowed"),
        (["overfit", "--lr", "nan"], "lr is nan; allowed"),
        (["overfit", "--only", "roof"], "only is 'roof'; allowed"),
        (["overfit", "--scenes", "many"], "'many'; allowed: a whole number"),
        (["report", "nothing"], "nothing"),
        (["report", "overfit", "-p", "accumulation_stepz", "8"], "accumulation_stepz"),
        (["report", "overfit", "-p", "accumulation_steps", "many"], "accumulation_steps"),
        (["report", "overfit", "-p", "accumulation_steps", "0"], "accumulation_steps"),
        (["report", "overfit", "--config", "missing.yaml"], "missing.yaml"),
        (["report", "overfit-bf16", "-p", "accumulation_steps", "0"], "accumulation_steps"),
        (["report", "overfit-bf61"], "did you mean 'overfit-bf16'"),
        (["report", "music", "-p", "sources", "99"], "sources is 99; allowed"),
        (["report", "--all", "-p", "seed", "3"], "--all runs every named set"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code  # type: ignore[assignment]
    captured = capsys.readouterr()
    assert code == 2
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_a_folder_that_is_gone_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["info"]) == 2
    assert capsys.readouterr().err == "rislab: the current folder is there no more; allowed: cd to one that is\n"


def test_a_foreign_checkpoint_in_the_run_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 something else")
    assert main([*QUICK, "--only", "whole set", "--run", str(tmp_path)]) == 2
    assert "was not written by rislab" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"PK\x03\x04 something else"


def test_the_installed_command_is_the_module() -> None:
    done = subprocess.run([sys.executable, "-m", "rislab.cli"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "overfit" in done.stdout


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_ctrl_c_keeps_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rislab.cli",
        "overfit",
        "--scenes",
        "64",
        "--micro-batch",
        "16",
        "--epochs",
        "60",
    ]
    command += ["--only", "whole set", "--log", "--run", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Epoch 003"):
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 130
    stopped = re.search(r"stopped after step (\d+); the same command goes on with", said)
    assert stopped is not None
    step = int(stopped[1])
    assert 12 <= step < 240
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"goes on after step {step}\n" in again.stdout
    assert again.returncode == 0
    steps = [record.step for record in step_records(run_folder.read_records(tmp_path / "run"))]
    assert steps == list(range(1, 241))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [["--version"], ["faults"]])
def test_a_full_disk_below_the_output_is_one_sentence(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rislab.cli", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "rislab: the output could not be written: No space left on device\n"


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as broken:
        command = [sys.executable, "-m", "rislab.cli", "faults"]
        done = subprocess.run(command, stdout=broken, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
