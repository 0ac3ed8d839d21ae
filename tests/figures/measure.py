"""Where figures come from: JSON of benchmarks and scoreboard, pages that commands write, short measurements."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rislab
from rislab import files

ROOT = Path(__file__).resolve().parents[2]
TIMED = ROOT / "reports" / "out" / "timed.json"
ROUNDS = 4
SOURCES = [path for path in sorted((ROOT / "rislab").rglob("*.py")) if "static" not in path.parts]


@dataclass(frozen=True)
class Benchmarks:
    """Figures of benchmarks, and of commands that were timed, by name, each with its commit and machine."""

    rows: dict[str, dict[str, Any]]

    @classmethod
    def of_file(cls, path: Path) -> Benchmarks:
        """Those of an earlier `make figures`; none if there is no file."""
        return cls(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})

    def take(self, path: Path) -> None:
        """Add those of a JSON file of pytest-benchmark, and of commands beside it, where there are any."""
        if TIMED.exists():
            self.rows.update(json.loads(TIMED.read_text(encoding="utf-8")))
        if not path.exists():
            return
        content = json.loads(path.read_text(encoding="utf-8"))
        where = {
            "commit": content["commit_info"]["id"][:12],
            "machine": content["machine_info"]["cpu"].get("brand_raw", "unknown"),
            "date": content["datetime"][:10],
        }
        for one in content["benchmarks"]:
            self.rows[one["name"]] = {**one["extra_info"], **where}


def value_of(
    source: str, benchmarks: Benchmarks, here: Mapping[str, float], worst: Callable[[list[float]], float] = max
) -> float | None:
    """The value of a figure; None if it was not measured.

    Args:
        source: "benchmark NAME KEY", where "NAME[*]" is every case of a benchmark, "timed COMMAND KEY" (see timed.py),
            "scoreboard TOOL SPLIT KEY" (a share), "lead SPLIT KEY" (ours over the best other one), "page PATH REGEX"
            whose first group is a number, or "here NAME".
        benchmarks: by name.
        here: by name, see measure_here().
        worst: the one of several cases that counts.
    """
    kind, _, rest = source.partition(" ")
    if kind in ("benchmark", "timed"):
        name, _, key = rest.rpartition(" ")
        values = [
            float(row[key])
            for case, row in benchmarks.rows.items()
            if key in row and (case == name or (name.endswith("[*]") and case.startswith(name[:-2])))
        ]
        return worst(values) if values else None
    if kind in ("scoreboard", "lead"):
        *tool, split, key = rest.split(" ")
        rows = json.loads((ROOT / "reports" / "scoreboard.json").read_text(encoding="utf-8"))["rows"]
        shares = {row["tool"]: row[key][0] / row[key][1] for row in rows if row["split"] == split}
        if kind == "scoreboard":
            return shares.get(" ".join(tool))
        return shares["rislab"] / max(share for name, share in shares.items() if not name.startswith("rislab"))
    if kind == "page":
        path, _, pattern = rest.partition(" ")
        match = re.search(pattern, (ROOT / path).read_text(encoding="utf-8")) if (ROOT / path).exists() else None
        return None if match is None else float(match[1].replace(" ", ""))
    return here.get(rest)


def measure_here() -> dict[str, float]:
    """What takes seconds to measure: sizes of the package, and processor times of new processes."""
    return sizes() | times()


def sizes() -> dict[str, float]:
    """Numbers of lines, modules and names."""
    texts = [path.read_text(encoding="utf-8") for path in SOURCES]
    trees = [ast.parse(text) for text in texts]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    pip = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)
    assert pip is not None
    return {
        "files at the top": len(list((ROOT / "rislab").glob("*.py"))),
        "rooms": sum(len(rooms) for rooms in rislab.ROOMS.values()),
        "lines of the largest module": max(text.count("\n") for text in texts),
        "lines of the largest function": max((node.end_lineno or 0) - node.lineno for node in functions),
        "lines": sum(text.count("\n") for text in texts),
        "direct dependencies": pip[1].count('"') / 2,
    }


def times() -> dict[str, float]:
    """Processor times of starting, in the units of the table."""
    whole = "import time; from rislab.cli.main import main; main(['--help']); print(time.process_time())"
    return {
        "ms of import rislab": 1e3 * _seconds("", "import rislab"),
        "s of import rislab.checkup over torch": _seconds("import torch", "import rislab.checkup as c; c.watch"),
        "s of rislab --help": _least(lambda: float(_output(whole).split()[-1])),
        "ms of the pytest plugin": 1e3 * _seconds("import pytest", "import rislab.checkup.pytest_plugin"),
    }


def _seconds(before: str, statement: str) -> float:
    """Processor time of a statement, in new processes that have run another one before."""
    code = f"{before}\nimport time\nbegan = time.process_time()\n{statement}\nprint(time.process_time() - began)"
    return _least(lambda: float(_output(code)))


def _output(code: str) -> str:
    # What is installed comes with compiled files; here the first process writes them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment).stdout


def _least(once: Callable[[], float]) -> float:
    """The least of some rounds: whatever disturbs, adds."""
    once()
    return min(once() for _ in range(ROUNDS))


def provenance_line() -> str:
    """Commit, versions and machine of what is measured here."""
    from rislab import provenance

    versions = provenance.versions(("rislab", "torch"))
    stated = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"commit {provenance.commit()}, {stated}, {provenance.processor()}"


def read_rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """The sections of a file of figures that are asked for."""
    return files.read_mapping(path, "holds no mapping; allowed: sections of figures")
