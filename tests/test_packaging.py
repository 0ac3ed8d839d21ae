"""The package as a newcomer finds it: environment in step, imports light, notebooks clean, nothing private named."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import rislab
from rislab.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = sorted(path for path in (ROOT / "rislab").rglob("*.py") if "static" not in path.parts)
ROOMS = [room for rooms in rislab.ROOMS.values() for room in rooms]
# Parts of the checkup in the order of its charter; these modules stand before them, all others of the room after.
PARTS = re.search(r"\w+(?: → \w+)+", (ROOT / "rislab/checkup/__init__.py").read_text())[0].split(" → ")
BEFORE_PARTS = ("findings", "fixes", "html_table", "options", "rule", "rules")
# What every room may use; the rooms themselves are not theirs to use.
COMMON = ("errors", "config", "files", "provenance", "rng")


def test_environment_is_in_step_with_the_project() -> None:
    pip = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[test]"]
    python = next(entry for entry in ENVIRONMENT["dependencies"] if str(entry).startswith("python="))
    smallest = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(map(int, smallest.split(".")))
    assert "make" in ENVIRONMENT["dependencies"]


def test_environment_can_be_created(tmp_path: Path) -> None:
    tool = next((tool for tool in ("micromamba", "mamba", "conda") if shutil.which(tool)), None)
    if tool is None:
        print("environment.yml was not tried: neither conda nor micromamba is here")
        return
    command = [tool, "create" if tool == "micromamba" else "env", *([] if tool == "micromamba" else ["create"])]
    subprocess.run([*command, "--yes", "-p", str(tmp_path / "env"), "-f", "environment.yml"], cwd=ROOT, check=True)
    subprocess.run([str(tmp_path / "env/bin/rislab"), "info"], check=True)


def test_constraints_pin_every_dependency() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {re.split("==", line)[0].lower().replace("_", "-"): line for line in lines}
    extras = PROJECT["optional-dependencies"]
    own = [one for names in extras.values() for one in names if not one.startswith("rislab")]
    wanted = [*PROJECT["dependencies"], *own]
    for requirement in wanted:
        name = re.split(r"[<>=\[]", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{name} is not pinned"
    assert pinned["torch"] == "torch==2.13.0"


def test_the_bare_install_is_small() -> None:
    """Its direct dependencies; tests/test_wheel.py installs them."""
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "pyyaml", "safetensors", "filelock"}


@pytest.mark.process
@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_brings_in_nothing_heavy(words: list[str]) -> None:
    script = (
        f"import sys\nfrom rislab.cli.main import main\ntry: main({[*words, '--help']})\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    assert "rislab.cli.main" in loaded
    assert {"torch", "numpy", "yaml", "plotly", "papermill"}.isdisjoint(loaded)


def test_import_brings_in_nothing_heavy() -> None:
    script = "import sys, rislab; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "numpy", "yaml", "optuna", "plotly", "ipywidgets", "papermill", "nbformat", "IPython"}
    assert heavy.isdisjoint(loaded)
    assert [name for name in loaded if name.startswith("rislab")] == ["rislab"]


@pytest.mark.process
def test_the_checkup_stands_alone() -> None:
    script = "import sys, rislab.checkup; from rislab.checkup import *; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    # It is imported by the first use, and takes as long as many files of ours.
    assert "numpy.random" not in loaded
    own = {name for name in loaded if name.startswith("rislab")}
    assert {"rislab.checkup.findings", "rislab.errors"} <= own
    assert all(name in ("rislab", "rislab.errors") or name.startswith("rislab.checkup") for name in own)


def imports(path: Path) -> set[str]:
    """Modules of rislab that a file imports, lazily or not, in dotted names without "rislab."."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("rislab.") for name in found if name.startswith("rislab.")}


def module_of(name: str) -> str:
    """The module in an imported name, such as "data.scenes" in "data.scenes.SceneConfig"."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        stem = ROOT.joinpath("rislab", *parts[:length])
        if stem.with_suffix(".py").is_file() or (stem / "__init__.py").is_file():
            return ".".join(parts[:length])
    return ""


def test_the_house_has_the_rooms_that_its_order_names() -> None:
    assert sorted(path.parent.name for path in (ROOT / "rislab").glob("*/__init__.py")) == sorted(ROOMS)
    assert {path.stem for path in (ROOT / "rislab").glob("*.py")} - {"__init__"} <= set(COMMON)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "rislab")))
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    """Imports within functions count too, and so do those for type checkers."""
    own = path.relative_to(ROOT / "rislab").with_suffix("").parts[0]
    before = () if own not in ROOMS or own == "checkup" else ROOMS[: ROOMS.index(own)]
    for name in imports(path):
        module = module_of(name)
        room = module.split(".")[0]
        if room in COMMON:
            assert own in COMMON or own in ROOMS
            assert own != "checkup" or room == "errors", f"{path.name} imports {name}"
            continue
        if not module:  # a name of rislab itself
            assert name == "lazy_names", f"{path.name} imports {name}"
            continue
        assert "." in module, f"{path.name} imports {name} from a room, and not from the module that holds it"
        assert room == own or room in before, f"{path.name} imports {name}"


def test_the_checkup_has_the_parts_that_its_charter_names() -> None:
    assert {path.parent.name for path in (ROOT / "rislab/checkup").glob("*/__init__.py")} == set(PARTS)


@pytest.mark.parametrize("part", [*BEFORE_PARTS, *PARTS])
def test_a_part_of_the_checkup_imports_only_from_parts_before_it(part: str) -> None:
    """Imports within functions count too."""
    before = {*BEFORE_PARTS, *(PARTS[: PARTS.index(part) + 1] if part in PARTS else ())}
    paths = [
        path
        for path in SOURCES
        if path.is_relative_to(ROOT / "rislab/checkup" / part) or path == ROOT / f"rislab/checkup/{part}.py"
    ]
    assert paths
    for path in paths:
        names = [module_of(name).split(".") for name in imports(path) if name.startswith("checkup.")]
        assert {name[1] for name in names} <= before, path.name


@pytest.mark.slow
def test_no_two_modules_import_each_other() -> None:
    """A module may be imported again only by those after it, also within functions and for type checkers."""
    direct = {}
    for path in SOURCES:
        own = ".".join(path.relative_to(ROOT / "rislab").with_suffix("").parts)
        direct[own] = {module_of(name) for name in imports(path)} - {""}
    TopologicalSorter(direct).prepare()  # raises CycleError


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS][:2] == ["00_start", "01_overfit"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean(path: Path) -> None:
    content = json.loads(path.read_text())
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all("execution" not in cell["metadata"] for cell in content["cells"])
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert {"widgets", "papermill"}.isdisjoint(content["metadata"])
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert path.stat().st_size < 100_000
    # What a student repairs is as long as it is.
    for cell in (cell for cell in code if not cell["id"].startswith("answer-of-")):
        for node in ast.walk(ast.parse("".join(cell["source"]).replace("await ", ""))):
            # The loop of the reader is what 07 is about.
            if isinstance(node, ast.FunctionDef) and (path.stem, node.name) != ("07_your_loop", "train"):
                assert (node.end_lineno or 0) - node.lineno < 8, "logic belongs in the package"


def test_make_soak_runs_every_test_that_has_a_long_form() -> None:
    recipe = re.search(r"^soak:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    run = re.findall(r"tests/[\w./]+", recipe)
    mark = "RISLAB_" + "SOAK"
    longer = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py") if mark in path.read_text()]
    assert longer and [str(path) for path in longer if not any(path.is_relative_to(one) for one in run)] == []


def test_version_stands_in_the_changelog_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert "keepachangelog.com" in text
