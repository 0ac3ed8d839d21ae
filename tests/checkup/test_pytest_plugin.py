"""The plugin of pytest, as a project of somebody else uses it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch._dynamo  # a run within this process takes away what it imports, and torch cannot be imported twice

import rislab
from rislab.checkup import process_watch, script
from rislab.checkup.findings import Findings, as_fault, as_note, as_warning, assert_no_faults
from rislab.checkup.output import formats
from rislab.checkup.rules import Code

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[2]
NEEDED = (torch._dynamo, formats, process_watch, script)
# What is not installed has no entry point.
PLUGIN = [] if entry_points(group="pytest11", name="rislab") else ["-p", "rislab.checkup.pytest_plugin"]

TRAIN = """
import torch

def train(divided=True, epochs=2):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(epochs):
        for batch in range(8):
            x = torch.randn(16, 4)
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            (loss / 4 if divided else loss).backward()
            if batch % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(train=TRAIN)
    pytester.syspathinsert()
    return pytester


def run(project: pytest.Pytester, test: str, *words: str) -> pytest.RunResult:
    project.makepyfile(
        test_train=f"import pytest\nfrom rislab.checkup import assert_no_faults\nfrom train import train\n{test}"
    )
    return project.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider", *words)


@pytest.mark.slow
def test_a_sound_loop_passes_and_a_faulty_one_fails_by_its_finding(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_sound(rislab_watch):
    train()

def test_faulty(rislab_watch):
    train(divided=False)
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "Found 1 fault.",
            "FAULT   C1 never divided: α = 4*",
            "*where: train.py:*",
            "*fix: multiply each micro-batch loss by its share of the window before backward",
            "FAILED test_train.py::test_faulty - Failed: Found 1 fault.",
        ]
    )


@pytest.mark.slow
def test_a_marker_declares_what_is_meant(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
@pytest.mark.rislab(accumulation_steps=4)
def test_as_declared():
    train()

@pytest.mark.rislab(accumulation_steps=2)
def test_not_as_declared():
    train()

@pytest.mark.rislab(ignore="C1")
def test_ignored():
    train(divided=False)

@pytest.mark.rislab(accumulation_steps=4)
class TestAll:
    @pytest.mark.rislab(select=["C9"])
    def test_selected(self):
        train(divided=False)

    @pytest.mark.rislab(accumulation_steps=2)
    def test_the_nearest_marker_decides(self):
        train()
""",
    )
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["FAILED test_train.py::test_not_as_declared - Failed: Found *"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("accumulation_steps=0", "accumulation_steps is 0; allowed: a whole number"),
        (
            "accumulate=4",
            "accumulate is not a field of pytest.mark.rislab, did you mean 'accumulation_steps'? allowed: accum",
        ),
        ("4", "pytest.mark.rislab has a value without a name; allowed: names"),
        ("ignore='C77'", "ignore is 'C77'"),
        ("fail_on='error'", "fail_on is 'error'; allowed: 'fault', 'warning', 'note'"),
    ],
)
def test_a_wrong_marker_is_one_sentence(project: pytest.Pytester, marker: str, said: str) -> None:
    result = run(project, f"@pytest.mark.rislab({marker})\ndef test_it():\n    train()\n")
    result.assert_outcomes(errors=1)
    assert said in result.stdout.str()


@pytest.mark.slow
def test_a_test_may_ask_for_the_findings_itself(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_expected(rislab_watch):
    train(divided=False)
    (finding,) = rislab_watch.findings()
    assert finding.name == "never divided"
    train()  # is not watched any more

def test_by_hand(rislab_watch):
    train(divided=False)
    assert_no_faults(rislab_watch.findings())
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([">*assert_no_faults(rislab_watch.findings())", "E*FAULT   C1 never divided*"])


@pytest.mark.slow
def test_a_test_that_fails_otherwise_shows_what_is_wrong_with_its_loop(project: pytest.Pytester) -> None:
    result = run(project, "def test_it(rislab_watch):\n    train(divided=False)\n    assert 1 == 2\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*assert 1 == 2", "*- Captured rislab call -*", "FAULT   C1 never divided*"])


def test_a_test_without_training_is_not_green(project: pytest.Pytester) -> None:
    result = run(project, "def test_it(rislab_watch):\n    pass\n\ndef test_without():\n    pass\n")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*no backward and no step was seen in this test: there is nothing to judge"])


@pytest.mark.slow
def test_a_skipped_test_and_one_of_unittest(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
import unittest

def test_skipped(rislab_watch):
    pytest.skip("not today")

@pytest.mark.rislab(accumulation_steps=4)
class TestCase(unittest.TestCase):
    def test_sound(self):
        train()

    def test_faulty(self):
        train(divided=False)
""",
    )
    result.assert_outcomes(skipped=1, passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAULT   C1 never divided*"])


REPORTED = """
@pytest.mark.parametrize("divided", [True, False])
def test_it(rislab_watch, divided):
    train(divided=divided)

@pytest.mark.rislab(ignore="C")
def test_ignored():
    train(divided=False)

def test_without():
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.json", "new/report.sarif", "report.xml"])
def test_a_report_holds_the_findings_of_all_tests(project: pytest.Pytester, name: str) -> None:
    result = run(project, REPORTED, f"--rislab-report={name}")
    result.assert_outcomes(passed=3, failed=1)
    text = (project.path / name).read_text()
    test = "test_train.py::test_it[False]"
    if name.endswith("json"):
        plain = json.loads(text)
        assert [one["test"] for one in plain["findings"]] == [test]
        assert (plain["steps"], plain["exit_code"], plain["silenced"][0]["by"]) == (12, 1, "selection")
        line = f"rislab: {name}: 3 watched tests. Found 1 fault. Silenced: 1 by selection."
        result.stdout.fnmatch_lines([line])
    elif name.endswith("sarif"):
        found = json.loads(text)["runs"][0]["results"][0]
        assert found["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == test
        assert found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "train.py"
    else:
        assert ElementTree.fromstring(text)[0][0].attrib["classname"] == test


def test_a_report_must_be_a_file(project: pytest.Pytester) -> None:
    result = run(project, REPORTED, "--rislab-report=.")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--rislab-report is '.', a folder; allowed: the path of a file" in result.stderr.str()


@pytest.mark.process
def test_workers_of_xdist_report_to_one_file(project: pytest.Pytester) -> None:
    project.makepyfile(test_train=f"import pytest\nfrom train import train\n{REPORTED}")
    result = project.runpytest_subprocess(*PLUGIN, "-n", "2", "--rislab-report=report.json")
    result.assert_outcomes(passed=3, failed=1)
    plain = json.loads((project.path / "report.json").read_text())
    assert [one["test"] for one in plain["findings"]] == ["test_train.py::test_it[False]"]
    assert plain["steps"] == 12 and len(plain["silenced"]) == 1


def test_the_plugin_is_declared_and_brings_in_nothing_heavy() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"rislab": "rislab.checkup.pytest_plugin"}
    script = (
        "import pytest, sys\nbefore = {*sys.modules}\nimport rislab.checkup.pytest_plugin\n"
        "print(*{*sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"rislab", "rislab.checkup", "rislab.checkup.pytest_plugin"}


def test_assert_no_faults() -> None:
    fault = as_fault(Code.WINDOW_SIZE, "stepped twice", "2")
    warning = as_warning(Code.STEPS, "tail never stepped", "3")
    unjudged = as_note(Code.LOSSES, "not judged", "nobody knows")
    assert_no_faults(Findings([warning]))
    with pytest.raises(AssertionError, match=r"^Found 1 warning\.\nWARNING C10 tail never stepped: 3"):
        assert_no_faults(Findings([warning]), fail_on="warning")
    with pytest.raises(AssertionError, match=r"^Found 1 fault, 1 warning\.\nFAULT   C3 stepped twice: 2"):
        assert_no_faults(Findings([warning, fault]))
    with pytest.raises(AssertionError, match="Not judged: C9"):
        assert_no_faults(Findings([unjudged]))
    assert_no_faults(Findings([unjudged]), allow_unjudged=True)
    assert rislab.checkup.assert_no_faults is assert_no_faults


@pytest.mark.slow
def test_the_example_of_the_readme(project: pytest.Pytester) -> None:
    text = (ROOT / "README.md").read_text()
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "mark.rislab" in block]
    assert sum(map(bool, example.splitlines())) <= 10
    project.makepyfile(test_loop=example)
    project.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=2)
    project.makepyfile(train=TRAIN.replace("divided=True", "divided=False"))
    sys.modules.pop("train", None)
    result = project.runpytest_inprocess(*PLUGIN)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["FAULT   C1 never divided*"])
