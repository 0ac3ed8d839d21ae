"""The wheel, installed into an empty environment without extras: what it holds, what it brings, and what then runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rislab

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.process

SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(16):
    x = torch.randn(16, 4)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    if step % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(ROOT)], check=True)
    (made,) = out.glob("*.whl")
    return made


def needed(names: list[str]) -> dict[str, Distribution]:
    """Distributions that these packages bring, themselves included, with the extras that they ask of each other."""
    known: dict[str, Distribution] = {}
    visited, waiting = set(), [(name, "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        known[name] = distribution(name)
        wanted = [Requirement(line) for line in known[name].requires or []]
        wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": extra})]
        waiting += [(one.name, each) for one in wanted for each in ("", *one.extras)]
    return known


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel, installed by pip without an index.

    What its metadata ask for is linked from the environment of this test, package by package: gigabytes of torch need
    not be copied, and pip refuses if anything is missing or of another version than the tested one.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = re.findall(r"^Requires-Dist: (.*)$", archive.read(metadata).decode(), re.MULTILINE)
    direct = [one.name for one in map(Requirement, lines) if one.marker is None]
    for known in needed(direct).values():
        for top in {file.parts[0] for file in known.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(known.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q", "--no-index"]
    options = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    options = {name: value for name, value in options.items() if name not in ("PYTHONPATH", "PIP_FIND_LINKS")}
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel)], check=True, env=options)
    return folder


def run(environment: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the environment in a folder that is no checkout, without the variables that would show it one."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RISLAB"))}
    command = [str(environment / "bin" / words[0]), *words[1:]]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


def test_it_holds_what_is_not_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    files = [path for path in (ROOT / "rislab").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {str(path.relative_to(ROOT)) for path in files}
    assert {name for name in held if ".dist-info/" not in name} == wanted
    assert {"rislab/py.typed", "rislab/__init__.pyi", "rislab/reports/static/page.css"} <= held
    assert sum(name.endswith(".safetensors") for name in held) == 2
    assert {f"rislab/{room}/__init__.py" for rooms in rislab.ROOMS.values() for room in rooms} <= held


def test_it_brings_no_jupyter(environment: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "list", "--format=freeze"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    names = {line.split("==")[0].lower() for line in lines}
    assert {"rislab", "torch", "numpy", "pyyaml", "safetensors", "filelock"} <= names
    heavy = r"jupyter|ipy|plotly|anywidget|papermill|nb|notebook|optuna|scipy|pandas|matplotlib|traitlets|pygments"
    assert [name for name in names if re.match(heavy, name)] == []


# Each command in one process, since each would import torch: prints the exit code and all output of each as JSON.
EACH = """
import contextlib, io, json, sys
from rislab.cli.main import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(sys.stdout), contextlib.redirect_stdout(io.StringIO()) as output:
        code = main(words)
    print(json.dumps([code, output.getvalue()]), flush=True)
"""


def test_the_checkup_runs_without_extras(environment: Path, tmp_path: Path) -> None:
    assert "run a training script, watched" in run(environment, tmp_path, "rislab", "--help").stdout
    (tmp_path / "loop.py").write_text(SCRIPT)
    done = run(environment, tmp_path, "rislab", "checkup", "loop.py")
    assert (done.returncode, done.stderr) == (1, "")
    assert "never divided" in done.stdout


def test_other_commands_run_without_extras(environment: Path, tmp_path: Path) -> None:
    commands = {
        "2 of 2 checks hold": ["overfit", "--scenes", "64", "--epochs", "2", "--only", "oracle", "splits"],
        "sparse + polish": ["localise", "--preset", "classroom", "--snr", "10", "--sources", "1", "--scenes", "2"],
        "faults; rislab faults": ["faults"],
        "[LOSS]": ["faults", "never divided", "--records", "--epochs", "1"],
        "not a checkout": ["info"],
    }
    done = run(environment, tmp_path, "python", "-c", EACH, json.dumps(list(commands.values())))
    assert (done.returncode, done.stderr) == (0, "")
    for text, line in zip(commands, done.stdout.splitlines(), strict=True):
        code, output = json.loads(line)
        assert code == 0 and text in output, output


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["report", "start"], "papermill", "lab"),
        (["sweep", "start", "--grid", "seed=0,1"], "papermill", "lab"),
        (["lab"], "jupyterlab", "lab"),
        (["grade", "."], "nbformat", "lab"),
        (["app", "music"], "voila", "app"),
        (["tune"], "optuna", "tune"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_names_the_extra_that_it_needs(
    words: list[str], package: str, extra: str, environment: Path, tmp_path: Path
) -> None:
    done = run(environment, tmp_path, "rislab", *words)
    text = f"{words[0]} needs {package}, which is not installed; install it with pip install 'rislab[{extra}]'"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rislab: {text}\n")
