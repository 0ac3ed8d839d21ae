"""`rislab checkup`: what it prints for people and for programs, where, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rislab.checkup.findings import Findings, as_note
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.rules import Code
from rislab.cli.main import main

FAULTY = """
import atexit, ctypes, os, signal, subprocess, sys, time
import torch
m = torch.nn.Linear(3, 1)
o = torch.optim.SGD(m.parameters(), 0.1)
for i in range(8):
    m(torch.ones(2, 3)).square().mean().backward()
    o.step()
"""
CLEAN = FAULTY.replace("    m(", "    o.zero_grad()\n    m(")


def script(folder: Path, text: str, name: str = "script.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_the_last_line_is_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["checkup", script(tmp_path, CLEAN)]) == 0
    assert capsys.readouterr().out.endswith("\nnothing to report\n")
    assert main(["checkup", script(tmp_path, FAULTY)]) == 1
    assert capsys.readouterr().out.endswith("\n1 fault, 0 warnings, 0 notes, 0 not judged\n")
    assert main(["checkup", script(tmp_path, "print('nothing is trained here')\n")]) == 2
    assert capsys.readouterr().out.endswith("there is nothing to judge\n")
    unjudged = as_note(Code.LOSSES, "not judged", "as nobody knows it")
    monkeypatch.setattr(ProcessWatch, "findings", lambda watch: Findings([unjudged]))
    assert main(["checkup", script(tmp_path, CLEAN)]) == 3
    said = capsys.readouterr().out
    assert "C9 not judged: as nobody knows it" in said and "nothing to report" not in said
    assert said.endswith("exit code 3, as C9 could not be judged; --allow-unjudged makes it 0\n")
    assert main(["checkup", "--allow-unjudged", script(tmp_path, CLEAN)]) == 0
    assert "0 faults, 0 warnings, 0 notes, 1 not judged" in capsys.readouterr().out


def test_how_the_script_ended_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkup", script(tmp_path, CLEAN + "sys.exit(7)\n")]) == 2
    assert "left with exit code 7 after 8 steps" in capsys.readouterr().out
    assert main(["checkup", script(tmp_path, FAULTY + "1 / 0\n")]) == 1
    said = capsys.readouterr().out
    assert "crashed: ZeroDivisionError: division by zero after 8 steps" in said and "never zeroed" in said
    assert main(["checkup", "--steps", "3", script(tmp_path, CLEAN)]) == 0
    assert "stopped after 3 steps: what comes later, as an evaluation, was not seen\n" in capsys.readouterr().out


def test_json_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # so that the folder to which the script goes is left again
    out = tmp_path / "new" / "report.json"
    path = script(tmp_path, FAULTY + "print('hello')\nos.chdir('/')\nsys.exit(7)\n")
    assert main(["checkup", "--json", "--output", str(out), path]) == 1
    said = capsys.readouterr()
    plain = json.loads(said.out)
    assert json.loads(out.read_text()) == plain and said.err == "hello\n"
    assert plain["verdict"] == "1 fault, 0 warnings, 0 notes, 0 not judged" and plain["exit_code"] == 1
    assert (plain["faults"], plain["unjudged"], plain["code"], plain["steps"]) == (1, 0, 7, 8)
    assert plain["findings"][0]["name"] == "never zeroed" and plain["findings"][0]["docs"]
    assert main(["checkup", "--output", str(out), "--steps", "3", script(tmp_path, CLEAN)]) == 0
    assert "nothing to report" in capsys.readouterr().out
    assert json.loads(out.read_text())["remarks"] and [*out.parent.iterdir()] == [out]


def test_help_says_what_the_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["checkup", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "(SCRIPT | -m MODULE) [-- arguments of the script]" in said
    for word in ("Exit code 0:", "1: faults", "2: the script could not be run", "3: something was not judged"):
        assert word in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "SCRIPT is nothing; allowed"),
        (["missing.py"], "SCRIPT is 'missing.py'; allowed"),
        (["."], "SCRIPT is '.'; allowed"),
        (["script.py", "-m", "package"], "SCRIPT is 'script.py' and -m 'package'; allowed"),
        (["-m", "missing.module"], "MODULE is 'missing.module'; allowed"),
        (["script.py", "--output", "."], "output is '.', a folder; allowed"),
        (["script.py", "--output", "script.py/report.json"], "script.py cannot be used"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    script(tmp_path, "print('ran')\n")
    monkeypatch.chdir(tmp_path)
    assert main(["checkup", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out


NOISE = """
print("python")
os.write(1, b"number\\n")
sys.__stdout__.write("original\\n")
subprocess.run(["echo", "child"])
ctypes.CDLL(None).puts(b"language")
atexit.register(print, "at exit")
"""


@pytest.mark.process
@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_streams_of_a_real_process(tmp_path: Path) -> None:
    """Standard output holds nothing but the JSON; a closed pipe and SIGTERM end without a traceback."""
    script(tmp_path, FAULTY + NOISE, "package/train.py")
    text = CLEAN.replace("    o.step()", "    o.step()\n    print('x' * 9000, flush=True)") + "time.sleep(60)\n"
    script(tmp_path, text, "long.py")
    command = [sys.executable, "-m", "rislab.cli", "checkup"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])}

    def start(*words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *words], stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment)

    noisy, closed, ended = (
        start("--json", "-m", "package.train"),
        start("long.py"),
        start("--output", "o.json", "long.py"),
    )
    assert closed.stdout is not None and ended.stdout is not None
    assert closed.stdout.readline() == ended.stdout.readline() == "x" * 9000 + "\n"
    closed.stdout.close()
    for _ in range(7):
        ended.stdout.readline()
    ended.send_signal(signal.SIGTERM)
    out, errors = noisy.communicate(timeout=200)
    plain = json.loads(out)
    assert (
        noisy.returncode == 1
        and plain["script"] == "package.train"
        and plain["findings"][0]["where"] == "package/train.py:8"
    )
    assert {"python", "number", "original", "child", "language", "at exit"} <= set(errors.splitlines())
    assert closed.wait(timeout=200) == 2 and closed.stderr is not None and closed.stderr.read() == ""
    out, errors = ended.communicate(timeout=200)
    assert (ended.returncode, errors) == (2, "") and "was ended by SIGTERM after 8 steps" in out
    assert json.loads((tmp_path / "o.json").read_text())["code"] == 128 + signal.SIGTERM
