"""The house as a stranger finds it: sizes that can be read, one name for one thing, the words of the field."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import rislab

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for path in (ROOT / "rislab").rglob("*.py") if "static" not in path.parts)
TEXTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETS = sorted((ROOT / "reports").glob("*.yaml"))

LINES, FUNCTION_LINES, ATTRIBUTES = 450, 60, 15
# Larger on purpose, each with its reason.
LARGER: dict[str, str] = {
    "rislab/checkup/recording/trace.py:MicroBatch": "a row of what was recorded: its columns are its content",
    "rislab/checkup/recording/trace.py:Step": "a row of what was recorded: its columns are its content",
    "rislab/checkup/recording/trace.py:Trace": "the whole record of a loop",
    "rislab/training/records.py:StepRecord": "a row of the table of records: its columns are its content",
}

# One for each framework, under one name: by its module a user chooses the framework.
OF_EACH_FRAMEWORK = {"CheckupCallback"}

# Words that meant something to the authors alone, as parts of identifiers.
GONE = set(
    [
        "house",
        "houses",
        "witness",
        "testimony",
        "hearing",
        "bystander",
        "party",
        "parties",
        "deliveries",
        "judge",
        "judges",
        "judged",
        "judgement",
        "clinic",
        "badge",
        "rung",
        "rungs",
        "culprit",
        "culprits",
        "accomplice",
        "accomplices",
        "autopsy",
        "seen",
        "told",
        "found",
        "said",
        "kept",
        "whole",
    ]
)
OF_TORCH = {"found_inf"}
# The same in texts: only where no plain English word is meant.
GONE_IN_TEXTS = re.compile(
    r"\b(witness|testimony|bystander|deliveries|badge|rungs?|culprits?|accomplices?|autopsy)\b"
    r"|allowed: as many",
    re.IGNORECASE,
)
# Notebook 03 tells its story in its own words.
STORY = "03_whodunnit"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_can_be_read_at_one_sitting(path: Path) -> None:
    text = path.read_text()
    if name_of(path) not in LARGER:
        assert text.count("\n") <= LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno
            assert lines <= FUNCTION_LINES or f"{name_of(path)}:{node.name}" in LARGER, f"{node.name}: {lines} lines"
        if isinstance(node, ast.ClassDef):
            count = len(attributes(node))
            assert count <= ATTRIBUTES or f"{name_of(path)}:{node.name}" in LARGER, f"{node.name}: {count} attributes"


def attributes(node: ast.ClassDef) -> set[str]:
    """Fields of a class, and what its methods set on `self`; fields of a configuration are its content."""
    fields = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    if any(ast.unparse(base) == "Config" for base in node.bases):
        fields = set()
    set_on_self = {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }
    return fields | set_on_self


@pytest.mark.slow
def test_no_two_public_things_have_one_name() -> None:
    """A function of the command line's files may be called as its neighbour: each has its add() and its run()."""
    places = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                places[node.name].append(name_of(path))
    twice = {name: where for name, where in places.items() if len(where) > 1 and name not in OF_EACH_FRAMEWORK}
    shared = {name: where for name, where in twice.items() if not all(each.startswith("rislab/cli/") for each in where)}
    assert shared == {}


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Names that a source gives: of functions, classes, arguments, variables, attributes and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname


def words_of(identifier: str) -> set[str]:
    """Words of an identifier, whether written_so or WrittenSo."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_are_words_of_the_field(path: Path) -> None:
    names = set(identifiers(ast.parse(path.read_text()))) - OF_TORCH
    assert {name for name in names if words_of(name) & GONE} == set()
    assert not words_of(path.stem) & GONE


def test_the_check_of_names_knows_a_gone_word() -> None:
    source = "def judge_splits(seen):\n    told, self.kept = 1, 2\nclass WholeSet: pass\n"
    assert {name for name in identifiers(ast.parse(source)) if words_of(name) & GONE} == {
        "judge_splits", "seen", "told", "kept", "WholeSet",
    }  # fmt: skip


@pytest.mark.parametrize("path", [*SOURCES, *TEXTS, *SETS], ids=name_of)
def test_texts_use_the_same_words(path: Path) -> None:
    """Docstrings, messages and comments too."""
    if path.name in ("whodunnit.yaml", "story.py", "story_panel.py"):
        return
    found = [match.group(0) for match in GONE_IN_TEXTS.finditer(path.read_text())]
    assert found == []


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != STORY], ids=lambda path: path.stem)
def test_notebooks_use_the_same_words(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert [match.group(0) for match in GONE_IN_TEXTS.finditer(text)] == []


def test_the_readme_shows_the_rooms_in_their_order() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [f"{storey:<8} {' → '.join(rooms)}" for storey, rooms in rislab.ROOMS.items()] == [
        line for line in lines if line.split(" ")[0] in rislab.ROOMS
    ]
