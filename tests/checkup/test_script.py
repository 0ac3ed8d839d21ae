"""Scripts as strangers write them: how they end, what they find around them, and what they start."""

from __future__ import annotations

import io
import json
import os
import py_compile
import shlex
import signal
import subprocess
import sys
import zipapp
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rislab.checkup.findings import Findings, as_note
from rislab.checkup.output.report import CheckupReport
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.rules import Code
from rislab.checkup.script import run_script
from rislab.errors import InputError

PLAIN = """
import os, sys
import torch
m = torch.nn.Linear(3, 1)
o = torch.optim.SGD(m.parameters(), 0.1)
for i in range(8):
    o.zero_grad()
    m(torch.ones(2, 3)).square().mean().backward()
    o.step()
"""
ZERO = "    o.zero_grad()\n"
FAULTY = PLAIN.replace(ZERO, "")


def script(folder: Path, text: str, name: str = "script.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(result: CheckupReport) -> list[str]:
    return [finding.name for finding in result.findings]


@pytest.fixture(autouse=True)
def recursion_limit() -> Iterator[None]:
    """What a script sets it to is not for the tests after it."""
    before = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "own", "ended"),
    [
        ("sys.exit()", 0, 0, "ran to its end"),
        ("sys.exit(0)", 0, 0, "ran to its end"),
        ("sys.exit(3)", 2, 3, "left with exit code 3"),
        ("sys.exit('no more data')", 2, 1, "left with exit code 1: no more data"),
        ("os._exit(0)", 0, 0, "ran to its end"),
        ("os._exit(4)", 2, 4, "left with exit code 4"),
        ("1 / 0", 2, 1, "crashed: ZeroDivisionError: division by zero"),
        ("raise MemoryError", 2, 1, "crashed: MemoryError"),
        ("torch.empty(2**60)", 2, 1, "crashed: RuntimeError: "),
        ("raise BaseException('odd')", 2, 1, "crashed: BaseException: odd"),
        ("raise ValueError('one\\ntwo')", 2, 1, "crashed: ValueError: one"),
        ("raise KeyboardInterrupt", 2, 130, "was interrupted"),
        ("sys.exit('')", 2, 1, "left with exit code 1"),
        ("sys.excepthook = lambda *_: sys.exit(9)\n1 / 0", 2, 1, "crashed: ZeroDivisionError"),
        ("sys.setrecursionlimit(200)\ndef f():\n    f()\nf()", 2, 1, "crashed: RecursionError"),
        (
            "class Odd(Exception):\n    def __str__(self):\n        raise OSError\nraise Odd",
            2,
            1,
            "crashed: Odd: an error without words: OSError",
        ),
    ],
)
def test_findings_so_far_are_given_however_a_script_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str, code: int, own: int, ended: str
) -> None:
    for text, expected in ((PLAIN, code), (FAULTY, 1)):
        result = run_script(script(tmp_path, text + end))
        assert (result.exit_code(), result.code, result.steps) == (expected, own, 8)
        assert result.ended.startswith(ended) and "\n" not in result.ended
        assert ("never zeroed" in names(result)) == (text is FAULTY)


@pytest.mark.parametrize("end", ["", "1 / 0", "sys.exit(3)", "os._exit(4)", "raise KeyboardInterrupt"])
def test_nothing_is_tried_on_the_networks_of_a_run_that_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    tried: list[Any] = []
    monkeypatch.setattr("rislab.checkup.probes.final_probes.network_probes", lambda *given: tried.append(given) or [])
    run_script(script(tmp_path, PLAIN + end))
    assert bool(tried) is (end == "")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", ["begin", "findings"])
def test_a_signal_ends_the_script_and_not_the_judging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: signal.Signals
) -> None:
    # What a shell begins in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    original, handlers = getattr(ProcessWatch, place), [*map(signal.getsignal, (signal.SIGTERM, signal.SIGINT))]

    def interrupted(watch: ProcessWatch) -> Any:
        os.kill(os.getpid(), number)
        return original(watch)

    monkeypatch.setattr(ProcessWatch, place, interrupted)
    result = run_script(script(tmp_path, FAULTY))
    if place == "begin":
        assert (result.ended, result.steps) in {("was ended by SIGTERM", 0), ("was interrupted", 0)}
        assert result.exit_code() == 2
    else:
        assert result.ended == "ran to its end" and names(result) == ["never zeroed"]
    assert [*map(signal.getsignal, (signal.SIGTERM, signal.SIGINT))] == handlers


def test_an_error_is_shown_as_python_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_script(script(tmp_path, PLAIN + "1 / 0\n"))
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.count("File ") == 1 and "script.py" in shown
    run_script(script(tmp_path, PLAIN + "sys.exit('no more data')\n"))
    assert capsys.readouterr().err == "no more data\n"
    run_script(script(tmp_path, PLAIN + "sys.excepthook = lambda *error: print('mine', *error[:2])\n1 / 0\n"))
    assert capsys.readouterr().out == "mine <class 'ZeroDivisionError'> division by zero\n"


@pytest.mark.parametrize("place", ["        assert i\n", "    if i == 2:\n        raise OSError\n"])
def test_a_loop_that_is_broken_off_is_not_blamed_for_what_could_not_come(tmp_path: Path, place: str) -> None:
    window = PLAIN.replace("    o.step()", "    if i % 4 == 3:\n        o.step()").replace(
        ZERO, "    i % 4 or o.zero_grad()\n"
    )
    crashed = window.replace("mean()", "mean().div(4)").replace(
        "    if i % 4", "    if i == 6:\n        1 / 0\n    if i % 4"
    )
    result = run_script(script(tmp_path, crashed))
    assert result.steps == 1 and result.exit_code() == 2 and not result.findings.faults, str(result.findings)
    before = run_script(script(tmp_path, crashed.replace("i == 6", "i == 2")))
    assert before.exit_code() == 2 and not before.trained and not before.findings


def test_what_the_weights_did_is_not_judged_after_a_crash(tmp_path: Path) -> None:
    tiny = PLAIN.replace("0.1)", "1e-30)")
    assert "C4" in [finding.code for finding in run_script(script(tmp_path, tiny)).findings]
    crashed = run_script(script(tmp_path, tiny + "1 / 0\n"))
    assert not crashed.findings and crashed.remarks == [
        "it was broken off by an error: what the weights did is not judged"
    ]


def test_what_was_not_judged_is_not_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = run_script(script(tmp_path, PLAIN))
    assert clean.findings.verdict == "All checks passed." and not clean.findings.unjudged and clean.exit_code() == 0
    faulty = run_script(script(tmp_path, FAULTY))
    assert faulty.findings.verdict == "Found 1 fault."
    unjudged = [as_note(Code.GRADIENT_SCALE, "not judged", why) for why in ("one", "two")]
    found = Findings([*unjudged, as_note(Code.NAN_SURVIVES, "not judged", "a probe"), *faulty.findings])
    assert found.unjudged == unjudged and found.verdict == "Found 1 fault, 1 note. Not judged: C1."
    monkeypatch.setattr(ProcessWatch, "findings", lambda watch: Findings(unjudged))
    result = run_script(script(tmp_path, PLAIN))
    assert result.exit_code() == 3 and result.exit_code(allow_unjudged=True) == 0
    assert result.findings.verdict == "Found no fault. Not judged: C1."
    assert run_script(script(tmp_path, PLAIN + "1 / 0\n")).exit_code(allow_unjudged=True) == 2


@pytest.mark.parametrize("method", ["findings", "__exit__"])
def test_an_error_of_the_checkup_itself_is_said_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    original = getattr(ProcessWatch, method)

    def broken(*arguments: Any) -> None:
        original(*arguments)
        raise KeyError("a rule")

    monkeypatch.setattr(ProcessWatch, method, broken)
    result = run_script(script(tmp_path, PLAIN))
    assert [finding.evidence for finding in result.findings.unjudged] == [
        "the checkup itself failed: KeyError: 'a rule'"
    ]
    assert result.exit_code() == 3


def test_a_run_that_is_stopped_says_what_it_did_not_see(tmp_path: Path) -> None:
    long = PLAIN.replace("range(8)", "range(10**6)")
    assert run_script(script(tmp_path, long), steps=5).remarks == [
        "stopped after 5 steps: what comes later, as an evaluation, was not seen"
    ]
    evaluated = long.replace("    o.step()", "    o.step()\n    with torch.no_grad():\n        m(torch.ones(2, 3))")
    assert run_script(script(tmp_path, evaluated), steps=5).remarks == []
    assert run_script(script(tmp_path, PLAIN)).remarks == []


SURROUNDINGS = """
import argparse, dataclasses, inspect, pickle
import beside
from collections.abc import Iterator
from pathlib import Path

@dataclasses.dataclass
class Point:
    "Where."
    x: int = 1

def main():
    "What is done."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float)
    assert parser.parse_args().rate == 0.5
    assert sys.argv[0] == ARGV0, sys.argv
    assert Path(__file__).is_absolute() and __spec__ is None and __package__ is None
    assert __doc__ == "Title." and __builtins__.print is print
    assert pickle.loads(pickle.dumps(Point(3))) == Point(3)
    assert sys.modules["__main__"].Point is Point
    assert "Where." in inspect.getsource(Point)
    assert input() == "from stdin"
    os.chdir("/")
    assert Path(__file__).is_file()
    print(beside.WORD)

if __name__ == "__main__":
    main()
"""


def test_a_script_finds_around_it_what_python_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script(tmp_path, "WORD = 'beside'\n", "folder/beside.py")
    text = '"Title."\nARGV0 = "folder/script.py"\n' + FAULTY + SURROUNDINGS
    script(tmp_path, text, "folder/script.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    main = sys.modules["__main__"]
    result = run_script("folder/script.py", ["--rate", "0.5"])
    assert result.ended == "ran to its end", capsys.readouterr().err
    assert capsys.readouterr().out == "beside\n"
    assert result.findings[0].where == "folder/script.py:10", "the script went elsewhere"
    assert sys.modules["__main__"] is main
    os.chdir(tmp_path)


def test_a_module_runs_as_python_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script(tmp_path, "", "strangers/__init__.py")
    script(tmp_path, "WORD = 'beside'\n", "strangers/beside.py")
    script(
        tmp_path, "from .beside import WORD\n" + FAULTY + "print(WORD, *sys.argv, __package__)\n", "strangers/train.py"
    )
    script(tmp_path, "print(__name__)\nfrom strangers import train\n", "strangers/__main__.py")
    script(tmp_path, "import no_such_package\n", "strangers/lame.py")
    monkeypatch.chdir(tmp_path)
    result = run_script("strangers.train", ["-x"], module=True)
    assert capsys.readouterr().out == f"beside {tmp_path}/strangers/train.py -x strangers\n"
    assert result.exit_code() == 1 and result.script == "strangers.train"
    assert result.findings[0].where == "strangers/train.py:9"
    assert run_script("strangers", module=True).steps == 8
    assert capsys.readouterr().out.startswith("__main__\n")
    lame = run_script("strangers.lame", module=True)
    assert lame.exit_code() == 2 and lame.ended.startswith("crashed: ModuleNotFoundError")
    for missing in ("no_such_package.train", "strangers.missing", "strangers..train", ""):
        with pytest.raises(InputError, match=f"MODULE is '{missing}'; allowed"):
            run_script(missing, module=True)
    for name in [name for name in sys.modules if name.startswith("strangers")]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "mode",
    [
        "torch.autograd.set_detect_anomaly(True)",
        "torch.profiler.profile()",
        "torch.autograd.profiler.profile()",
        "__import__('cProfile').Profile()",
        "__import__('unittest.mock').mock.patch.object("
        "torch.Tensor, 'backward', lambda *given, own=torch.Tensor.backward, **named: own(*given, **named))",
    ],
)
def test_other_observers_may_look_on(tmp_path: Path, mode: str) -> None:
    head, loop = PLAIN.split("for i", 1)
    for text, faults in ((loop, []), (loop.replace(ZERO, ""), ["never zeroed"])):
        indented = "\n    ".join(f"for i{text}".splitlines())
        result = run_script(script(tmp_path, f"{head}with {mode}:\n    {indented}\n"))
        assert result.ended == "ran to its end"
        assert [finding.name for finding in result.findings.faults] == faults
    assert not torch.is_anomaly_enabled()


def test_streams_are_set_right_after_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, sys.stdin, sys.excepthook
    text = "sys.stdout = sys.stderr = sys.stdin = open(os.devnull, 'w')\nsys.excepthook = print\n"
    for end in ("", "sys.stdout.close()\nraise BrokenPipeError\n"):
        assert run_script(script(tmp_path, PLAIN + text + end)).code == bool(end)
        assert (sys.stdout, sys.stderr, sys.stdin, sys.excepthook) == before


def test_threads_of_a_script_are_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()\n"
    assert run_script(script(tmp_path, PLAIN + late)).exit_code() == 0
    assert capsys.readouterr().out == "late\n"


# One after the other in one process, whose handlers and children are its own.
EACH = """
import json, sys
from rislab.checkup.script import run_script
if __name__ == "__main__":
    for path in sys.argv[2:]:
        print("begins", path, flush=True)
        result = run_script(path, steps=int(sys.argv[1]))
        words = [finding.name for finding in result.findings], [finding.evidence for finding in result.findings]
        print("RESULT" + json.dumps([result.exit_code(), result.ended, result.steps, *words]), flush=True)
"""
WORK = """
import multiprocessing, os, signal, sys, time
import torch

def work(rank=0, *given):
    m = torch.nn.Linear(3, 1)
    o = torch.optim.SGD(m.parameters(), 0.1)
    for i in range(8 if not given else 10**9):
        if rank != "faulty":
            o.zero_grad()
        m(torch.ones(2, 3)).square().mean().backward()
        o.step()

def faulty(rank):
    work("faulty")

class Worker(multiprocessing.Process):
    def __init__(self, queue):
        super().__init__()
        self.queue = queue

    def run(self):
        work(0, "long")
        self.queue.put("done")
"""


def in_one_process(folder: Path, texts: dict[str, str], steps: int = 50) -> dict[str, list[Any]]:
    """Exit code, ending, steps, names and evidence for each script; "" holds all that was printed."""
    paths = [str(script(folder, WORK + text, f"the {name}.py")) for name, text in texts.items()]
    command = [sys.executable, str(script(folder, EACH, "each.py")), str(steps), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    lines = [line.removeprefix("RESULT") for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(lines) == len(texts), done.stdout + done.stderr
    return dict(zip(texts, map(json.loads, lines), strict=True)) | {"": [done.stdout, done.stderr]}


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.usefixtures("forked")
def test_forks_and_signals(tmp_path: Path) -> None:
    end = "assert os.waitpid(pid, 0)[1] == 3 << 8\n"
    fork = 'multiprocessing.get_context("fork")'
    texts = {
        "unused": f"work()\npid = os.fork()\nif pid == 0:\n    print('from fork')\n    sys.exit(3)\n{end}",
        "unseen": f"work()\npid = os.fork()\nif pid == 0:\n    work()\n    os._exit(3)\n{end}",
        "crashed": "work()\npid = os.fork()\nif pid == 0:\n    1 / 0\nassert os.waitpid(pid, 0)[1] == 1 << 8\n",
        "killed": f"p = {fork}.Process(target=time.sleep, args=(60,))\nwork()\np.start()\np.terminate()\np.join()\n"
        "assert p.exitcode == -15, p.exitcode\n",
        "daemon": f"p = {fork}.Process(target=work, daemon=True)\np.start()\np.join()\n",
        "ended": f"p = {fork}.Process(target=lambda: (work(), os.kill(os.getpid(), 9)))\np.start()\np.join()\n",
        "clean": f"p = {fork}.Process(target=work)\np.start()\np.join()\nassert p.exitcode == 0\n",
        "faulty": f"p = {fork}.Process(target=work, args=('faulty',))\np.start()\np.join()\n",
        "waiting": f"q = {fork}.Queue()\nmultiprocessing.set_start_method('fork', force=True)\n"
        "Worker(q).start()\nq.get()\n",
        "loader": "work()\nfrom torch.utils.data import DataLoader\n"
        "print(len([*DataLoader(range(8), num_workers=2)]))\n",
        "other": "import subprocess\nlong = 'import time\\nwhile time.process_time() < 1.3: pass'\n"
        "subprocess.run([sys.executable, '-c', long])\n",
        "sigterm": "work('faulty')\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n",
        "own handler": "got = []\nsignal.signal(signal.SIGTERM, lambda *given: got.append(1))\nwork()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.1)\nassert got\n",
        "after": "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\nwork()\n",
    }
    found = in_one_process(tmp_path, texts)
    output, errors = found.pop("")
    seen = {name: tuple(result[:3]) for name, result in found.items()}
    whole = "ran to its end"
    assert seen == {
        "unused": (0, whole, 8),
        "unseen": (3, whole, 8),
        "crashed": (0, whole, 8),
        "killed": (0, whole, 8),
        "daemon": (3, whole, 0),
        "ended": (3, whole, 0),
        "clean": (0, whole, 8),
        "faulty": (1, whole, 8),
        "waiting": (0, "was stopped", 50),
        "loader": (0, whole, 8),
        "other": (3, whole, 0),
        "sigterm": (1, "was ended by SIGTERM", 8),
        "own handler": (0, whole, 8),
        "after": (0, whole, 8),
    }
    assert "from fork\n" in output and "ZeroDivisionError" in errors
    assert "never zeroed" in found["faulty"][3] and "(in a child process)" in found["faulty"][4][0]
    assert found["unseen"][4][0].startswith("a child process took steps that were not seen")
    assert "s of CPU time, and no training was seen" in found["other"][4][0]


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_processes_that_are_spawned(tmp_path: Path) -> None:
    main = 'if __name__ == "__main__":\n    '
    workers = "num_workers=1, multiprocessing_context='spawn'"
    texts = {
        "ranks": f"import torch.multiprocessing as mp\n{main}mp.spawn(faulty, (), 2)\n    print('spawned')\n",
        "worker": f"{main}multiprocessing.set_start_method('spawn', force=True)\n"
        "    q = multiprocessing.SimpleQueue()\n    Worker(q).start()\n    q.get()\n",
        "loader": f"{main}from torch.utils.data import DataLoader\n    work()\n"
        f"    print(len([*DataLoader(range(8), {workers})]))\n",
    }
    found = in_one_process(tmp_path, texts)
    output, errors = found.pop("")
    assert {name: tuple(result[:3]) for name, result in found.items()} == {
        "ranks": (1, "ran to its end", 16),
        "worker": (0, "was stopped", 50),
        "loader": (0, "ran to its end", 8),
    }, errors
    assert "spawned\n" in output and "Traceback" not in errors
    assert found["ranks"][3:] == [["never zeroed"], [found["ranks"][4][0]]]
    assert found["ranks"][4][0].endswith("(in 2 child processes)")


def test_a_script_finds_and_sets_the_handlers_that_python_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
import signal
print(signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGTERM, print) is signal.SIG_DFL)
print(signal.getsignal(signal.SIGTERM) is print, signal.signal(signal.SIGTERM, signal.SIG_DFL) is print)
print(signal.getsignal(signal.SIGTERM))
"""
    before = signal.getsignal, signal.signal
    result = run_script(script(tmp_path, text + PLAIN + "os.kill(os.getpid(), signal.SIGTERM)\nprint('never')\n"))
    assert capsys.readouterr().out == "0 True\nTrue True\n0\n"
    assert (result.ended, result.steps) == ("was ended by SIGTERM", 8)
    assert (signal.getsignal, signal.signal) == before


@pytest.mark.parametrize("kind", ["folder", "archive", "compiled"])
def test_what_python_runs_is_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = "import beside\nprint(beside.WORD, __name__, __file__, __package__, sys.argv, sys.path[0])\n"
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "beside.py").write_text("WORD = 'found'\n")
    path, main = tmp_path / "app", script(tmp_path, PLAIN + seen, "app/__main__.py")
    if kind == "archive":
        path = tmp_path / "app.pyz"
        zipapp.create_archive(tmp_path / "app", path)
    elif kind == "compiled":
        path = tmp_path / "app" / "script.pyc"
        py_compile.compile(str(main), str(path))
    alone = subprocess.run([sys.executable, str(path), "--word"], capture_output=True, text=True, timeout=300)
    assert alone.stdout.startswith("found"), alone.stderr
    sys.modules.pop("beside", None)
    sys.path_importer_cache.clear()
    result = run_script(path, ["--word"])
    sys.modules.pop("beside", None)
    assert (result.exit_code(), result.steps) == (0, 8)
    assert capsys.readouterr().out == alone.stdout


@pytest.mark.process
def test_a_report_without_a_standard_output_goes_to_the_other_stream(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from rislab.cli.main import main; raise SystemExit(main())", "checkup"]
    path = script(tmp_path, PLAIN)
    words = " ".join(map(shlex.quote, [*command, str(path)]))
    ended = subprocess.run(["bash", "-c", f"{words} >&-"], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0
    assert "All checks passed." in ended.stderr and "Traceback" not in ended.stderr
