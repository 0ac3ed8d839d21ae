"""The Action of GitHub and the hook of pre-commit: their commands are run, as the README uses them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.forks import inherited

ROOT = Path(__file__).resolve().parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
TRAIN = """
import sys
import torch

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for epoch in range(int(sys.argv[sys.argv.index("--epochs") + 1])):
    for batch in range(8):
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
print("trained", *sys.argv[1:])
"""
FAULTY = TRAIN.replace("        optimizer.zero_grad()\n", "")


def examples(word: str) -> Any:
    """The example of the README that holds a word."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if word in block]
    return yaml.safe_load(block)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a script, and a command `rislab` of this checkout, which is a fork."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "rislab"
    fork = "import sys; from tests.forks import as_fork; as_fork('-m', 'rislab.cli', *sys.argv[1:])"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{fork}" "$@"\n')
    command.chmod(0o755)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def run(project: Path, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(project / "bin"), os.environ["PATH"]])
    line, descriptors = inherited()
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | line | variables
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, pass_fds=descriptors
    )


def act(project: Path, given: dict[str, Any]) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the second step of the Action as a runner does; what it did, and its outputs."""
    install, checkup = ACTION["runs"]["steps"]
    assert install["run"] == 'python -m pip install "$GITHUB_ACTION_PATH"' and "env" not in install
    inputs = {name: str(given.get(name, one["default"])) for name, one in ACTION["inputs"].items()}
    assert set(given) <= set(inputs)
    reference = re.compile(r"\$\{\{ inputs\.([a-z-]+) \}\}")
    assert "${{" not in checkup["run"]  # what an input holds must not become a command
    variables = {name: reference.sub(lambda match: inputs[match[1]], text) for name, text in checkup["env"].items()}
    assert not any("${{" in text for text in variables.values())
    outputs = project / "outputs"
    outputs.write_text("")
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", checkup["run"]]
    return run(project, command, GITHUB_OUTPUT=str(outputs), **variables), outputs.read_text()


@pytest.mark.process
def test_the_action_as_the_readme_uses_it(project: Path) -> None:
    steps = examples("runs-on")["jobs"]["loop"]["steps"]
    (own,) = [step for step in steps if step.get("uses") == "./rislab"]
    (upload,) = [step for step in steps if "upload-sarif" in step.get("uses", "")]
    done, outputs = act(project, own["with"])
    assert (done.returncode, done.stderr, outputs) == (0, "", "exit-code=0\n")
    assert "trained --epochs 1\n" in done.stdout and done.stdout.endswith("\nAll checks passed.\n")
    (project / "train.py").write_text(FAULTY)
    done, outputs = act(project, own["with"])
    assert (done.returncode, outputs) == (1, "exit-code=1\n")
    assert "\n::error file=train.py,line=" in done.stdout
    report = json.loads((project / upload["with"]["sarif_file"]).read_text())
    assert report["runs"][0]["results"][0]["message"]["text"].startswith("never zeroed")


@pytest.mark.process
def test_the_action_with_a_module_and_options(project: Path) -> None:
    (project / "package dir").mkdir()
    (project / "train.py").write_text(FAULTY)
    given = {
        "module": "train", "arguments": "--epochs 2 $(touch broken)", "options": "--ignore C2 --allow-unjudged",
        "fail-on": "warning", "output": "package dir/report.json",
    }  # fmt: skip
    done, outputs = act(project, given)
    assert (done.returncode, outputs) == (0, "exit-code=0\n"), done.stderr
    assert json.loads((project / "package dir" / "report.json").read_text())["silenced"][0]["by"] == "selection"
    assert not (project / "broken").exists() and "trained --epochs 2 $(touch broken)" in done.stdout
    done, outputs = act(project, {})
    assert (done.returncode, outputs) == (2, "exit-code=2\n") and "SCRIPT is nothing; allowed" in done.stderr


@pytest.mark.process
def test_the_hook_as_the_readme_uses_it(project: Path) -> None:
    (repository,) = examples("pre-push")["repos"]
    (used,) = repository["hooks"]
    assert used["id"] == HOOK["id"] and HOOK["pass_filenames"] is False and HOOK["language"] == "system"
    command = [*shlex.split(HOOK["entry"]), *used["args"]]
    assert run(project, command).returncode == 0
    (project / "train.py").write_text(FAULTY)
    done = run(project, command)
    assert done.returncode == 1 and "C2 never zeroed" in done.stdout
