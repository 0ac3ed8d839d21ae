"""`python -m tests.corpus` (make scoreboard): runs every tool on every case.

Writes reports/scoreboard.md, .svg and .json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from tests.corpus.cases import FOLDER, SPLITS, Pair, Program, clean, missing, pairs
from tests.corpus.scoreboard import Scoreboard, drawing, text
from tests.corpus.tools import OURS, ROOT, TOOLS, Tool, install, interpreter
from tests.corpus.trials import Task, needed, trials

REPORTS = ROOT / "reports"


def main() -> None:
    """Run what was not run yet, and write the page."""
    options = _options()
    began = time.perf_counter()
    chosen = [tool for tool in TOOLS if not options.tools or tool.name in options.tools.split(",")]
    failed = {tool.name: why for tool in chosen if (why := tool.install())}
    interpreters = _interpreters(options, failed)
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    tools = [tool for tool in chosen if tool.name not in failed]
    every = list(_tasks(tools, interpreters))
    kept = ROOT / "reports" / "out" / "scoreboard.jsonl"
    found = list(trials(every, kept, options.limit, options.processes))
    labels, reasons = (yaml.safe_load((FOLDER / name).read_text()) or {} for name in ("labels.yaml", "misses.yaml"))
    board = Scoreboard(list(pairs()), list(clean()), found, labels)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    head = [
        f"Commit {commit.strip()}, {OURS}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores; {len(found)} runs, at most {options.limit:.0f} s of the processor each; with "
        f"{options.processes} at a time {sum(one.seconds for one in found) / 60 / options.processes:.0f} minutes.",
        f"{len(board.faults())} faulty programs with an effect of {len({pair.kind for pair in board.faults()})} kinds, "
        f"{len({trial.case for trial in found if trial.role == 'clean'})} clean ones.",
        *(f"{name}: {why}." for name, why in failed.items()),
    ]
    page = text(board, head, reasons)
    options.folder.mkdir(exist_ok=True, parents=True)
    (options.folder / "scoreboard.md").write_text(page)
    (options.folder / "scoreboard.svg").write_text(drawing(board))
    (options.folder / "scoreboard.json").write_text(json.dumps({"head": head, **board.plain()}, indent=1) + "\n")
    print(page.split("## Kinds")[0])
    print(f"{time.perf_counter() - began:.0f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--tools", default="", help="names of tools, commas between them; all if not given")
    parser.add_argument("--cases", default="", help="only cases whose names hold this")
    parser.add_argument("--split", choices=SPLITS, help="only this half")
    parser.add_argument("--limit", type=float, default=15.0, help="seconds of the processor for one run")
    parser.add_argument("--processes", type=int, default=2, help="that run at a time")
    parser.add_argument("--frameworks", default="", help="an interpreter for programs that need more packages")
    parser.add_argument("--folder", type=Path, default=REPORTS, help="where the page goes")
    return parser.parse_args()


def _interpreters(options: argparse.Namespace, failed: dict[str, str]) -> list[tuple[Pair | Program, str]]:
    """The chosen programs, each with one that has what it imports, made where need be; the others go to `failed`."""
    found: list[tuple[Pair | Program, str]] = []
    for case in (*pairs(), *clean()):
        if options.cases not in case.name or options.split not in (None, case.split):
            continue
        needs = missing(case.needs)
        if not needs or options.frameworks:
            found.append((case, options.frameworks if needs else sys.executable))
        elif why := install("+".join(needs), *needs):
            failed[case.name] = f"not run: {', '.join(needs)} {why}"
        else:
            found.append((case, str(interpreter("+".join(needs)))))
    return found


def _tasks(tools: list[Tool], interpreters: list[tuple[Pair | Program, str]]) -> Iterator[Task]:
    for tool in tools:
        for case, python in interpreters:
            for role, script in case.scripts.items():
                task = Task(tool, script, role, case.name, getattr(case, "declarations", {}), python)
                if needed(task):
                    yield task


if __name__ == "__main__":
    main()
