"""`rislab checkup`: what it prints for people and for programs, where, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rislab.checkup.findings import Findings, as_note, as_warning
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.rules import Code
from rislab.cli.main import main
from rislab.cli.terminal import has_colours
from rislab.errors import InputError

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


@pytest.mark.slow
def test_the_last_line_is_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["checkup", script(tmp_path, CLEAN)]) == 0
    assert capsys.readouterr().out.endswith("\nAll checks passed.\n")
    assert main(["checkup", script(tmp_path, FAULTY)]) == 1
    assert capsys.readouterr().out.endswith("\nFound 1 fault.\n")
    assert main(["checkup", script(tmp_path, "print('nothing is trained here')\n")]) == 2
    assert capsys.readouterr().out.endswith("there is nothing to judge\n")
    unjudged = as_note(Code.LOSSES, "not judged", "as nobody knows it")
    monkeypatch.setattr(ProcessWatch, "findings", lambda watch: Findings([unjudged]))
    assert main(["checkup", script(tmp_path, CLEAN)]) == 3
    said = capsys.readouterr().out
    assert "C9 not judged: as nobody knows it" in said and "--allow-unjudged makes it 0\n" in said
    assert said.endswith("\nFound no fault. Not judged: C9.\n")
    assert main(["checkup", "--allow-unjudged", script(tmp_path, CLEAN)]) == 0
    assert capsys.readouterr().out.endswith("\nFound no fault. Not judged: C9.\n")


@pytest.mark.slow
def test_how_the_script_ended_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkup", script(tmp_path, CLEAN + "sys.exit(7)\n")]) == 2
    assert "left with exit code 7 after 8 steps" in capsys.readouterr().out
    assert main(["checkup", script(tmp_path, FAULTY + "1 / 0\n")]) == 1
    said = capsys.readouterr().out
    assert "crashed: ZeroDivisionError: division by zero (exit code 1) after 8 steps" in said and "never zeroed" in said
    assert main(["checkup", "--steps", "3", script(tmp_path, CLEAN)]) == 0
    assert "stopped after 3 steps: what comes later, as an evaluation, was not seen\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("end", ["sys.stdout.close()\n", "sys.stdout.close()\n1 / 0\n"])
def test_what_a_script_closes_does_not_silence_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    monkeypatch.setattr(sys, "stdout", open(tmp_path / "out", "w"))  # noqa: SIM115 - the script closes it
    assert main(["checkup", script(tmp_path, FAULTY + end)]) == 1
    said = capsys.readouterr().err
    assert "never zeroed" in said and ("ZeroDivisionError: division by zero (exit code 1) after 8" in said) is (
        "1 / 0" in end
    )


@pytest.mark.slow
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
    assert plain["verdict"] == "Found 1 fault." and plain["exit_code"] == 1
    assert (plain["faults"], plain["unjudged"], plain["code"], plain["steps"]) == (1, 0, 7, 8)
    assert plain["findings"][0]["name"] == "never zeroed" and plain["findings"][0]["docs"]
    assert main(["checkup", "--output", str(out), "--steps", "3", script(tmp_path, CLEAN)]) == 0
    assert "All checks passed." in capsys.readouterr().out
    assert json.loads(out.read_text())["remarks"] and [*out.parent.iterdir()] == [out]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "begins"),
    [("json", "{"), ("github", "::error file=script.py,line=8,"), ("sarif", "{"), ("junit", "<?xml")],
)
def test_each_format_is_printed_and_written(
    format: str, begins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script(tmp_path, FAULTY)
    assert main(["checkup", "--format", format, "--output", "report.sarif", "script.py"]) == 1
    assert capsys.readouterr().out.startswith(begins)
    written = json.loads((tmp_path / "report.sarif").read_text())["runs"][0]["results"]
    place = written[0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "script.py" and place["region"]["startLine"] == 8


@pytest.mark.slow
def test_findings_are_selected_and_silenced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script(tmp_path, FAULTY)
    script(tmp_path, FAULTY.replace("o.step()", "o.step()  # rislab: ignore[C2]"), "silent.py")
    for words, code in {
        ("--ignore", "C2"): 0, ("--select", "P"): 0, ("--ignore", "never zeroed", "--ignore", "P"): 0,
        ("--select", "C2", "--select", "P"): 1,
    }.items():  # fmt: skip
        assert main(["checkup", *words, "script.py"]) == code
    assert main(["checkup", "silent.py"]) == 0
    assert "Silenced: 1 by comment." in capsys.readouterr().out


@pytest.mark.slow
def test_a_baseline_is_written_and_holds_where_lines_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script(tmp_path, FAULTY)
    known = ["checkup", "--baseline", "known.json", "script.py"]
    assert main([*known[:1], "--write-baseline", *known[1:]]) == 0
    assert "1 finding written to known.json" in capsys.readouterr().out
    script(tmp_path, "\n\n" + FAULTY + "os.chdir('/')\n")
    assert main(known) == 0
    monkeypatch.chdir(tmp_path)
    script(tmp_path, FAULTY.replace("o.step()", "o.step(None)"))
    assert main(known) == 1
    text = (tmp_path / "known.json").read_text()
    script(tmp_path, FAULTY + "1 / 0\n")
    assert main([*known[:1], "--write-baseline", *known[1:]]) == 1
    assert "no baseline was written" in capsys.readouterr().out and (tmp_path / "known.json").read_text() == text


@pytest.mark.slow
def test_a_warning_fails_if_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warning = as_warning(Code.STEPS, "tail never stepped", "")
    monkeypatch.setattr(ProcessWatch, "findings", lambda watch: Findings([warning]))
    path = script(tmp_path, CLEAN)
    codes = [main(["checkup", "--fail-on", severity, path]) for severity in ("fault", "warning", "note")]
    assert codes == [0, 1, 1]


def test_a_full_disk_takes_away_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise InputError(f"{path} could not be written: No space left on device")

    monkeypatch.setattr("rislab.files.replace", full)
    assert main(["checkup", "--out", str(tmp_path / "report.sarif"), script(tmp_path, FAULTY)]) == 2
    captured = capsys.readouterr()
    assert "FAULT" in captured.out and "report.sarif could not be written" in captured.err


@pytest.mark.slow
def test_colours_are_for_terminals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = script(tmp_path, FAULTY)
    for name, value, coloured in (("FORCE_COLOR", "1", True), ("NO_COLOR", "1", False)):
        monkeypatch.setenv(name, value)
        main(["checkup", path])
        text = capsys.readouterr().out
        assert ("\033[1;31mFAULT  \033[0m \033[1mC2 never zeroed\033[0m: " in text) is coloured
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.delenv("FORCE_COLOR")
    for tty, term, coloured in ((True, "xterm", True), (True, "dumb", False), (False, "xterm", False)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda tty=tty: tty)
        monkeypatch.setenv("TERM", term)
        assert has_colours() is coloured


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
        (["script.py", "--format", "yaml"], "format is 'yaml'; allowed: 'text', 'json'"),
        (["script.py", "--fail-on", "error"], "fail_on is 'error'; allowed: 'fault', 'warning', 'note'"),
        (["script.py", "--select", "C1,X"], "select is 'X'; allowed: codes"),
        (["script.py", "--select", "C1", "--select", "X"], "select is 'X'; allowed: codes"),
        (["script.py", "--select", ","], "select is ','; allowed: names, with commas between them"),
        (["script.py", "--ignore", "never devided"], "did you mean 'never divided'"),
        (["script.py", "--baseline", "missing.json"], "baseline missing.json could not be read"),
        (["script.py", "--write-baseline"], "--write-baseline is given without a file"),
        (["script.py", "--write-baseline", "--baseline", "."], "baseline is '.', a folder"),
        (["script.py", "--steps", "0"], "steps is 0; allowed"),
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
@pytest.mark.usefixtures("forked")
@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_streams_of_a_real_process(tmp_path: Path) -> None:
    """Standard output holds nothing but the JSON; a closed pipe and SIGTERM end without a traceback."""
    script(tmp_path, FAULTY + NOISE, "package/train.py")
    text = CLEAN.replace("    o.step()", "    o.step()\n    print('x' * 9000, flush=True)") + "time.sleep(60)\n"
    script(tmp_path, text, "long.py")
    command = [sys.executable, "-m", "rislab.cli", "checkup"]

    def start(*words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *words], stdout=pipe, stderr=pipe, text=True, cwd=tmp_path)

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
    out, errors = noisy.communicate(timeout=900)
    plain = json.loads(out)
    assert (
        noisy.returncode == 1
        and plain["script"] == "package.train"
        and plain["findings"][0]["where"] == "package/train.py:8"
    )
    assert {"python", "number", "original", "child", "language", "at exit"} <= set(errors.splitlines())
    # Nobody reads the standard output any more.
    assert closed.wait(timeout=900) == 2 and closed.stderr is not None
    assert closed.stderr.read().splitlines()[1].startswith("long.py was cut off: nobody reads what it prints (exit")
    out, errors = ended.communicate(timeout=900)
    assert (ended.returncode, errors) == (2, "") and "was ended by SIGTERM (exit code 143) after 8 steps" in out
    assert json.loads((tmp_path / "o.json").read_text())["code"] == 128 + signal.SIGTERM
