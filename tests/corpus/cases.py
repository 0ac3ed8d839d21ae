"""The cases of the corpus: `for case in pairs()` and `for program in clean()`; needs PyYAML and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
SPLITS = ("dev", "held")


@dataclass(frozen=True)
class Effect:
    """What the fault does, measured over the seeds 0 to 4.

    Args:
        measure: what the last line of the script prints as `final error`, in words; smaller is better.
        faulty_seeds: of the faulty script, one a seed.
        fixed_seeds: of the fixed one.
        faulty_worse_in: number of seeds in which the faulty one is worse.
    """

    measure: str
    faulty_seeds: tuple[float, ...]
    fixed_seeds: tuple[float, ...]
    faulty_worse_in: int


@dataclass(frozen=True)
class Pair:
    """A faulty script and its fixed twin.

    Args:
        name: of the folder.
        title: the fault in one sentence.
        kind: of fault; no kind has more than 12 cases.
        split: "dev": the checkup may be mended with it; "held": looked at for a measurement only.
        needs: packages beside torch and numpy that the scripts import.
        source: repository and number of the public issue, pull request or commit.
        found_by: "symptom": the search described what a user sees; "name": it named a part of the loop.
        query: of the search.
        seen: what a user would have seen.
        line: number of the line of the faulty script that is wrong, from 1.
        names: names that fit the fault, in words.
        labels: keys of labels.yaml that fit the fault: what a tool must mean to name it.
        declarations: what the author of the script would know: arguments of the loop.
        effect: what the fault does.
        harmless: whether it has no effect; then it is no fault, and only kept to see who accuses it.
        checked: how the label was checked.
    """

    name: str
    title: str
    kind: str
    split: str
    needs: tuple[str, ...]
    source: str
    found_by: str
    query: str
    seen: str
    line: int
    names: tuple[str, ...]
    labels: tuple[str, ...]
    declarations: dict[str, Any]
    effect: Effect
    harmless: bool
    checked: str

    @property
    def faulty(self) -> Path:
        """The faulty script."""
        return FOLDER / "pairs" / self.name / "faulty.py"

    @property
    def fixed(self) -> Path:
        """The fixed script."""
        return FOLDER / "pairs" / self.name / "fixed.py"

    @property
    def scripts(self) -> dict[str, Path]:
        """Both, by their roles."""
        return {"faulty": self.faulty, "fixed": self.fixed}


@dataclass(frozen=True)
class Program:
    """A correct program.

    Args:
        name: of the file.
        path: of the file.
        split: "dev" or "held".
        needs: packages beside torch and numpy that it imports.
        why: it is correct, one sentence.
    """

    name: str
    path: Path
    split: str
    needs: tuple[str, ...]
    why: str

    @property
    def scripts(self) -> dict[str, Path]:
        """The one, by its role."""
        return {"clean": self.path}


def pairs() -> Iterator[Pair]:
    """All pairs, by their names."""
    for path in sorted((FOLDER / "pairs").glob("*/case.yaml")):
        plain = yaml.safe_load(path.read_text())
        effect = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in plain.pop("effect").items()
            if name not in ("faulty", "fixed")
        }
        lists = {name: tuple(plain.pop(name)) for name in ("needs", "names", "labels")}
        yield Pair(name=path.parent.name, effect=Effect(**effect), **lists, **plain)


def clean() -> Iterator[Program]:
    """All correct programs: those of the folder clean/, and those of tests/scripts."""
    table = yaml.safe_load((FOLDER / "clean.yaml").read_text())
    for name, row in table["clean"].items():
        path = FOLDER / "clean" / f"{name}.py"
        why = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        yield Program(name, path, row["split"], tuple(row["needs"]), why)
    for name, why in table["scripts"].items():
        yield Program(name, FOLDER.parent / "scripts" / f"{name}.py", "dev", (), why)


def missing(needs: tuple[str, ...]) -> list[str]:
    """The packages that are not installed here."""
    return [package for package in needs if not find_spec(package)]


def coin(name: str) -> str:
    """The half of a new case: fixed by its name alone."""
    return SPLITS[sha256(name.encode()).digest()[0] % 2]
