"""The house as a newcomer finds it: environment in step, imports light, notebooks clean, nothing private named."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Each may import only from those before it.
ORDER = (
    "errors", "geometry", "draws", "data", "covariance", "estimates", "descent", "subspace", "music", "waveforms",
    "bounds", "metrics", "likelihood", "sparse", "losses", "randomness", "pursuit", "model", "records", "files",
    "state", "training", "gradients", "runs", "overfit", "learning", "space", "storage", "parallel", "weights",
    "fault", "faults_accumulation", "faults_reported", "faults_numerics", "faults_optimiser", "faults_estimator",
    "faults", "autopsy", "readings", "finding", "testimony", "witness", "deliveries", "course", "hearing",
    "reported", "checkup", "bystander", "script", "subject", "probes", "clinic", "quiz", "story", "exercises",
    "modes", "precision", "conventions", "localise", "judge", "trials", "worker", "machine", "tuning", "explore",
    "film", "figures", "deliveries_figure", "loops", "localise_figure", "tuning_figure", "coverage_figure",
    "clinic_figures", "maps", "live", "music_panel", "film_panel", "runner", "clinic_panel", "quiz_panel",
    "story_panel", "precision_panel", "live_run", "training_figure", "training_panel", "tuning_panel", "panels",
    "notebooks", "export", "measured", "servers", "grading", "reports", "gallery", "sweep", "sweep_page",
    "cli_faults", "cli_checkup", "cli_lab", "cli_train", "cli_sweep", "cli_tune", "cli",
)  # fmt: skip


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


def test_import_brings_in_nothing_heavy() -> None:
    script = "import sys, rislab; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "optuna",
        "sqlalchemy",
        "plotly",
        "ipywidgets",
        "anywidget",
        "papermill",
        "nbconvert",
        "nbformat",
        "IPython",
        "jupyterlab",
    }
    assert heavy.isdisjoint(loaded)
    assert {"rislab.training", "rislab.data"} <= set(loaded)


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted((ROOT / "rislab").glob("*.py")) if path.stem != "__init__"]
)
def test_a_module_imports_only_from_those_above_it(name: str) -> None:
    tree = ast.parse((ROOT / "rislab" / f"{name}.py").read_text())
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("rislab"):
            continue
        used = [alias.name for alias in node.names] if node.module == "rislab" else [str(node.module).split(".")[1]]
        for other in used:
            assert ORDER.index(other) < ORDER.index(name), f"{name} imports {other}"


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
    for cell in code:
        for node in ast.walk(ast.parse("".join(cell["source"]).replace("await ", ""))):
            # The loop of the reader is what 07 is about.
            if isinstance(node, ast.FunctionDef) and (path.stem, node.name) != ("07_your_loop", "train"):
                assert (node.end_lineno or 0) - node.lineno < 8, "logic belongs in the package"


def test_version_stands_in_the_changelog_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert "keepachangelog.com" in text
