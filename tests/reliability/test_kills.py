"""Kills, full disks, read-only folders, jumping clocks and no network, each done to the real commands.

`make soak` kills a hundred times; here a few must do. What proves that nothing was lost is what is read back.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from rislab.reports import measured, notebooks
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training import run_folder
from rislab.training.records import epoch_records, to_dict
from rislab.training.state import read_checkpoint
from rislab.tuning.search import RECORD
from tests.forks import kill_group
from tests.tuning.small import trials_in

pytestmark = pytest.mark.process
SOAK = os.environ.get("RISLAB_SOAK") == "1"
# Thirty-four of each of three commands are a hundred.
KILLS = 34 if SOAK else 1
CLI = [sys.executable, "-m", "rislab.cli"]
TRAIN = [
    "train", "--preset", "classroom", "--scenes", "512" if SOAK else "128",
    "--epochs", "6" if SOAK else "3", "--validation", "32",
    "--threads", "1", "--micro-batch", "16",
]  # fmt: skip
TUNE = [
    "tune", "--skip-ladder", "--scenes", "64", "--epochs", "3", "--validation", "16", "--micro-batch", "16",
    "--eval-scenes", "32", "--search", "lr=0.001:0.01:log", "--pruner", "median", "--confirm", "2", "--workers", "1",
    "--trials", "4",
]  # fmt: skip
REPORT = ["report", "start", "-p", "scenes", "64", "-p", "epochs", "8"]


def run(words: Sequence[str], command: Sequence[str] = CLI) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # of kernels too
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=900, env=environment)


def sum_of_training(folder: Path) -> str:
    """Over weights and records, without the seconds that they took."""
    digest = hashlib.sha256()
    for record in run_folder.read_records(folder):
        digest.update(json.dumps({**to_dict(record), "seconds": 0}).encode())
    for name, tensor in sorted(read_checkpoint(folder / run_folder.CHECKPOINT)["model"].items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def sum_of_search(folder: Path) -> str:
    trials = trials_in(folder)
    told = [(one.number, one.state, one.values, one.scores, one.score) for one in trials]
    scores = [json.loads(path.read_text()) for path in sorted(folder.rglob("score.json"))]
    best = yaml.safe_load((folder / "best.yaml").read_text())
    return hashlib.sha256(json.dumps([told, scores, best]).encode()).hexdigest()


def sum_of_report(folder: Path) -> str:
    """Over what was measured: pages hold the time of day."""
    page = (folder / "start.html").read_text()
    assert page.rstrip().endswith("</html>")
    executed = notebooks.read_notebook(folder / "start.ipynb")
    lines = [output.text for cell in executed.cells for output in cell.get("outputs", []) if output.get("text")]
    told = [line for line in "".join(lines).splitlines() if "NMSE" in line or "forwards" in line]
    assert told
    return hashlib.sha256(json.dumps([told, measured.measured_numbers(executed)]).encode()).hexdigest()


def whole_training(folder: Path) -> None:
    """What a kill left can be read, every line and every file of it."""
    if (folder / run_folder.CONFIG).exists():
        run_folder.read_config(folder)
    if (folder / run_folder.RECORDS).exists():
        run_folder.read_records(folder)
    if (folder / run_folder.CHECKPOINT).exists():
        read_checkpoint(folder / run_folder.CHECKPOINT)


def whole_search(folder: Path) -> None:
    if (folder / RECORD).exists():
        trials_in(folder)
    if (folder / "best.yaml").exists():
        yaml.safe_load((folder / "best.yaml").read_text())["lr"]
    for place in folder.glob("trials/*"):
        whole_training(place)


def whole_report(folder: Path) -> None:
    if (folder / "start.html").exists():
        assert (folder / "start.html").read_text().rstrip().endswith("</html>")
    if (folder / "start.ipynb").exists():
        notebooks.read_notebook(folder / "start.ipynb")


@pytest.mark.parametrize(
    ("words", "option", "whole", "sum_of"),
    [
        (TRAIN, "--run", whole_training, sum_of_training),
        # Searches are killed in tests/tuning/test_search.py too; a report takes long.
        *([(TUNE, "--run", whole_search, sum_of_search)] if SOAK else []),
        *([(REPORT, "--out", whole_report, sum_of_report)] if SOAK else []),
    ],
    ids=["train", *(["tune", "report"] if SOAK else [])],
)
@pytest.mark.usefixtures("forked")
def test_kills_at_random_moments_lose_nothing(
    words: list[str],
    option: str,
    whole: Callable[[Path], None],
    sum_of: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    chance = random.Random(11)
    straight, struck = tmp_path / "straight", tmp_path / "struck"
    command = [*CLI, *words, option]
    run(["info"])  # what all others are forked from is started, and not counted
    began = time.monotonic()
    assert run([*command, str(straight)], []).returncode in (0, 1)
    taken = time.monotonic() - began
    result, number = sum_of(straight), 0
    # One in each part of the whole time, in any order.
    moments = [0.1 + 0.9 * (part + chance.random()) / KILLS for part in range(KILLS)]
    chance.shuffle(moments)
    while moments:
        began = time.monotonic()
        running = killed([*command, str(struck)], moments[-1] * taken)
        whole(struck)
        if running:
            moments.pop()
        else:  # it went on to its end: the next kill finds another one at work
            taken = min(taken, time.monotonic() - began) if number == 0 else taken
            assert sum_of(struck) == result
            number += 1
            struck = tmp_path / f"struck {number}"
    done = run([*command, str(struck)], [])
    # A training that a late kill found complete says so.
    assert done.returncode in (0, 1) or "is complete" in done.stderr, done.stderr
    assert sum_of(struck) == result


def killed(command: Sequence[str], seconds: float) -> bool:
    """Run a command for so long at most; whether it had to be killed."""
    process = subprocess.Popen(command, start_new_session=True, stdout=-3, stderr=-3)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    running = kill_group(process)
    process.wait()
    return running


# A command that is killed before its n-th change of a file in a folder; for 0 it says in the end how many there were.
BEFORE = """
import os, signal, sys
folder, last = sys.argv[1], int(sys.argv[2])
changes = 0
def strike(event, arguments):
    global changes
    if event == "open":
        changing = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        changing = event in ("os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate", "os.link")
    if changing and str(arguments[0]).startswith(folder):
        changes += 1
        if changes == last:
            os.killpg(0, signal.SIGKILL)
sys.addaudithook(strike)
from rislab.cli.main import main
code = main(sys.argv[3:])
print(changes)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "option", "whole", "sum_of"),
    [(TRAIN, "--run", whole_training, sum_of_training), (REPORT, "--out", whole_report, sum_of_report)],
    ids=["train", "report"],
)
@pytest.mark.usefixtures("forked")
def test_kills_before_a_file_is_changed_lose_nothing(
    words: list[str],
    option: str,
    whole: Callable[[Path], None],
    sum_of: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    """The moments that chance hardly meets: a file is there by half, or not yet in its place."""

    def striking(folder: Path, change: int) -> list[str]:
        return [sys.executable, "-c", BEFORE, str(folder), str(change), *words, option, str(folder)]

    done = run([], striking(tmp_path / "straight", 0))
    assert done.returncode in (0, 1), done.stderr
    changes, result = int(done.stdout.splitlines()[-1]), sum_of(tmp_path / "straight")
    # A record is appended as those before it; the first file that is replaced, and the last ones.
    chosen = [*range(8, 11), *range(max(11, changes - 7), changes + 1)] if SOAK else [changes]
    for change in chosen:
        struck = tmp_path / f"struck {change}"
        process = subprocess.Popen(striking(struck, change), start_new_session=True, stdout=-3, stderr=-3)
        assert process.wait(900) == -signal.SIGKILL, change
        whole(struck)
        assert run([option, str(struck)], [*CLI, *words]).returncode in (0, 1)
        assert sum_of(struck) == result, change


# A command while no file may grow beyond 20 kB, which is what a full disk looks like to a program. Python would replace
# the byte code of a module by what of it fits into the file, and not read it again.
FULL = """
import resource, signal, sys
sys.dont_write_bytecode = True
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
from rislab.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "option"),
    [(TRAIN, "--run"), (REPORT, "--out")],
    ids=["train", "report"],
)
@pytest.mark.usefixtures("forked")
def test_a_full_disk_is_one_sentence(words: list[str], option: str, tmp_path: Path) -> None:
    done = run([*words, option, str(tmp_path / "here")], [sys.executable, "-c", FULL])
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line and not line.lstrip().startswith(("Executing", "\r"))]
    assert "Traceback" not in done.stderr and "could not be written" in said[-1]
    assert not list((tmp_path / "here").glob("*.html"))


def as_others() -> list[str]:
    """A prefix that makes permissions count, which they do not for root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and setpriv (Debian's util-linux) is not here to give that up")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


# Each command of a list, in one process: importing torch for each would take most of the time.
EACH = """
import contextlib, io, json, sys
from rislab.cli.main import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(sys.stderr):
        code = main(words)
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


def each(prefix: Sequence[str], commands: Sequence[Sequence[str]], **options: Any) -> list[tuple[int, str]]:
    """Exit code and standard error of each command."""
    whole = [*prefix, sys.executable, "-c", EACH, json.dumps(commands)]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=900, check=False, **options)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(commands)
    return [(code, said) for code, said in told]


def test_a_folder_that_may_only_be_read_is_one_sentence(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    commands = [
        [*words, option, str(closed / "new")]
        for words, option in (
            (TRAIN, "--run"),
            (TUNE, "--run"),
            (REPORT, "--out"),
            (["sweep", "start", "--grid", "seed=0,1"], "--out"),
            (["overfit", "--only", "one scene"], "--run"),  # before the ladder is climbed
            (["lab", "--classroom", "--prepare"], "--run"),
            (["grade", str(Path(__file__).parents[2] / "notebooks")], "--out"),
        )
    ]
    for words, (code, said) in zip(commands, each(as_others(), commands), strict=True):
        assert code == 2, (words, said)
        assert "Traceback" not in said and str(closed) in said.splitlines()[-1], (words, said)
    assert list(closed.iterdir()) == []


JUMPS = """
import random, sys, time
chance, honest = random.Random(3), time.time
time.time = lambda: honest() + chance.choice([-1e7, -3600.0, 0.0, 3600.0, 1e9])
from rislab.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("forked")
def test_a_jumping_clock_changes_nothing(tmp_path: Path) -> None:
    """Every call of the wall clock is years or hours off: records and checkpoints are those of a steady one."""
    words = ["overfit", "--scenes", "64", "--epochs", "4", "--only", "whole set"]
    for name, command in (("steady", CLI), ("jumping", [sys.executable, "-c", JUMPS])):
        done = subprocess.run([*command, *words, "--run", str(tmp_path / name)], capture_output=True, text=True)
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    assert sum_of_training(tmp_path / "jumping") == sum_of_training(tmp_path / "steady")
    took = [record.seconds for record in epoch_records(run_folder.read_records(tmp_path / "jumping"))]
    assert all(0 < seconds < 60 for seconds in took)


@pytest.mark.usefixtures("forked")
def test_two_notebooks_on_one_run_folder_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told who has it, and the records are those of the first alone."""
    monkeypatch.chdir(tmp_path)
    script = (
        "import time, rislab\n"
        "from pathlib import Path\nfrom rislab.panels.run import Run\n"
        "config = rislab.sanity.OverfitConfig(scenes=64, micro_batch=16, epochs=40)\n"
        "run = Run('mine', config, Path('shared'))\nrun.task.start()\n"
        "while run.history.windows < 20: time.sleep(0.01)\n"
        "print('on', flush=True)\n"
        "while run.task.running: time.sleep(0.05)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "on\n"
    from rislab.panels.run import Run

    second = Run.load("theirs", Path("shared"))
    second.go_on()
    while second.task.running:
        time.sleep(0.05)
    assert "in use by another process" in str(second.task.error)
    first.communicate(timeout=900)
    config = OverfitConfig(scenes=64, micro_batch=16, epochs=40)
    ends = epoch_records(run_folder.read_records(Path("shared")))
    assert [end.epoch for end in ends] == list(range(1, config.epochs + 1))


GUARD = """
import os, socket, sys
def refuse(how, address):
    with open(os.environ["RISLAB_CALLS"], "a") as log:
        log.write(f"{how} {address}\\n")
    raise OSError("no network here")
def local(host):
    return str(host) in ("127.0.0.1", "localhost", "::1", "", "0.0.0.0", "None")
class Socket(socket.socket):
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not local(address[0]):
            refuse("connect", address)
        return super().connect(address)
    connect_ex = connect
honest = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    if not local(host.decode() if isinstance(host, bytes) else host):
        refuse("look up", host)
    return honest(host, *rest, **more)
socket.socket, socket.getaddrinfo = Socket, getaddrinfo
"""


def cut_off() -> list[str]:
    """A prefix that takes the network away for good, where the system lets us; the guard watches in any case."""
    cut = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    able = shutil.which("unshare") and shutil.which("ip")
    return cut if able and subprocess.run([*cut, "true"], capture_output=True).returncode == 0 else []


def test_nothing_needs_a_network_or_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    calls = tmp_path / "calls"
    paths = f"{tmp_path / 'guard'}{os.pathsep}{os.environ['PYTHONPATH']}"
    environment = {**os.environ, "PYTHONPATH": paths, "RISLAB_CALLS": str(calls)}
    works = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    assert subprocess.run([sys.executable, "-c", works], env=environment, capture_output=True).returncode != 0
    assert calls.read_text().strip()  # the guard itself works
    calls.unlink()
    commands = [
        ["info"],
        [*REPORT, "--out", str(tmp_path / "out")],
        [*TRAIN[:-2], "--epochs", "1", "--run", str(tmp_path / "run")],
        [
            *("localise", "--preset", "classroom", "--weights", "shipped", "--snr", "10", "--sources", "1"),
            *("--scenes", "1", "--estimators", "sparse", "--threads", "1"),
        ],
        ["checkup", str(Path(__file__).parents[1] / "scripts" / "char_rnn.py"), "--steps", "8"],
    ]
    for words, (code, said) in zip(commands, each(cut_off(), commands, env=environment), strict=True):
        assert code in (0, 1) and "Traceback" not in said, (words, said)
    assert not calls.exists(), calls.read_text()
    assert (tmp_path / "out" / "start.html").exists()
