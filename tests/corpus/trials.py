"""Runs of tools on scripts: in parallel, with limits, each once; what was run is kept in a file and not run again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.corpus import preloaded
from tests.corpus.preloaded import wait
from tests.corpus.tools import DECLARED, DECLARING, ROOT, Outcome, Said, Tool

PRELOADED = Path(preloaded.__file__)
ADAPTERS = PRELOADED.with_name("adapters.py")
# Of a shared machine: a script waits for its turn, and must not be blamed for it.
WALL_PER_CPU = 6


@dataclass(frozen=True)
class Task:
    """One tool on one script.

    Args:
        tool: that runs.
        script: that it runs on.
        role: "faulty", "fixed" or "clean".
        case: name of the pair or program.
        declarations: of the case.
        python: interpreter that has what the script imports.
    """

    tool: Tool
    script: Path
    role: str
    case: str
    declarations: dict[str, Any]
    python: str

    @property
    def key(self) -> str:
        """Of the result: it stands as long as tool, script, adapter and declarations do."""
        parts = [self.tool.name, self.tool.version, str(sorted(self.declarations.items())), self.script.read_text()]
        if self.tool.of_script:
            parts.append(ADAPTERS.read_text())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Trial:
    """What came of a task.

    Args:
        tool: name of the tool.
        case: name of the pair or program.
        role: "faulty", "fixed" or "clean".
        outcome: what the tool said.
        seconds: of processor time.
        mebibytes: of memory at the peak.
    """

    tool: str
    case: str
    role: str
    outcome: Outcome
    seconds: float
    mebibytes: float


def trials(tasks: Iterable[Task], kept: Path, limit: float, processes: int) -> Iterator[Trial]:
    """Results of all tasks, those of the file first; new ones are appended to it.

    Args:
        tasks: what to run.
        kept: file of results, one a line.
        limit: processor seconds of one run.
        processes: that run at a time.
    """
    old: dict[str, dict[str, Any]] = {}
    if kept.exists():
        for line in kept.read_text().splitlines():
            row = json.loads(line)
            old[row["key"]] = row
    new = []
    for task in tasks:
        if row := old.get(task.key):
            found = tuple(Said(**{**one, "aliases": tuple(one["aliases"])}) for one in row["findings"])
            yield Trial(
                task.tool.name, task.case, task.role, Outcome(found, row["cannot"]), row["seconds"], row["mebibytes"]
            )
        else:
            new.append(task)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with Workers() as workers, ThreadPoolExecutor(processes) as pool, kept.open("a") as file:
        futures = {pool.submit(run, task, limit, workers): task for task in new}
        for count, future in enumerate(as_completed(futures), 1):
            task, trial = futures[future], future.result()
            row = {"key": task.key, "seconds": trial.seconds, "mebibytes": trial.mebibytes, **asdict(trial.outcome)}
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{count}/{len(new)} {task.tool.name}: {task.case}, {task.role}", file=sys.stderr, flush=True)
            yield trial


class Workers:
    """Processes that have imported torch, one for each interpreter, tool and thread."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str, int], subprocess.Popen[str]] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.kill()  # to end by itself would take each of them a second or more
            worker.communicate()

    def run(self, task: Task, order: dict[str, Any]) -> dict[str, float]:
        """Have an order carried out; see preloaded.py."""
        path = [str(ROOT), *([str(task.tool.site_packages)] if task.tool.package else [])]
        key = (task.python, os.pathsep.join(path), threading.get_ident())
        if key not in self._workers or self._workers[key].poll() is not None:
            environment = _environment(path)
            command = [task.python, str(PRELOADED), *(["rislab.checkup.script"] if not task.tool.package else [])]
            self._workers[key] = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
            )  # fmt: skip
        worker = self._workers[key]
        assert worker.stdin and worker.stdout
        worker.stdin.write(json.dumps(order) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())


def run(task: Task, limit: float, workers: Workers) -> Trial:
    """Run one task in a folder of its own, with one thread, and limits of time."""
    with tempfile.TemporaryDirectory() as folder:
        out, stdout = Path(folder, "report.json"), Path(folder, "stdout")
        work = Path(folder, "work")
        work.mkdir()
        command = task.tool.command(task.script, out, task.declarations)
        if task.tool.of_script:
            order = {"arguments": command, "folder": f"{work}", "stdout": f"{stdout}", "cpu": int(limit)}
            used = workers.run(task, {**order, "wall": limit * WALL_PER_CPU})
        else:
            used = _alone(command, work, stdout, limit * WALL_PER_CPU)
        if used["code"] in (-signal.SIGXCPU, -signal.SIGKILL):
            outcome = Outcome(cannot=f"time: more than {limit:.0f} s of the processor")
        else:
            try:
                outcome = task.tool.read(out, stdout.read_text(errors="replace"), int(used["code"]))
            except (ValueError, KeyError, TypeError) as error:
                outcome = Outcome(cannot=f"its report cannot be read: {type(error).__name__}: {error}"[:200])
    return Trial(task.tool.name, task.case, task.role, outcome, round(used["seconds"], 2), round(used["mebibytes"], 1))


def _environment(path: list[str]) -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SEED": "0", "TQDM_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }  # fmt: skip


def _alone(command: list[str], folder: Path, stdout: Path, wall: float) -> dict[str, float]:
    with stdout.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment([str(ROOT)]), stdout=stream, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        return wait(process.pid, wall)


def needed(task: Task) -> bool:
    """Whether the task differs from that of the undeclared checkup."""
    return task.tool.name != DECLARING or any(name in task.declarations for name in DECLARED)
