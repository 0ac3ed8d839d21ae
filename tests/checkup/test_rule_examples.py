"""The example of each rule: the wrong loop is flagged by the rule, and the right one is clean."""

from __future__ import annotations

import os

import pytest

from rislab.checkup.rule_examples import FOLDER, RuleExample, findings_of, numbers_of
from rislab.checkup.rules import RULES

# Rules whose findings are not all faults: the severity of what the example shows.
MILDER = {"C16": "warning", "P6": "warning", "P8": "note", "P10": "note"}
ALLOWED = {"clipping assumed"}


def test_every_rule_has_an_example_and_every_example_a_rule() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(RULES)


@pytest.mark.slow
@pytest.mark.parametrize("code", RULES)
def test_the_wrong_loop_is_flagged_by_its_rule_and_the_right_one_is_clean(code: str) -> None:
    example, folder = RuleExample.of(code), os.getcwd()
    wrong, right = (findings_of(example.source(mark)) for mark in "-+")
    severities = {finding.severity for finding in wrong if finding.code == code}
    assert MILDER.get(code, "fault") in severities, str(wrong)
    assert [finding for finding in right if finding.name not in ALLOWED] == [], str(right)
    assert all(finding.where.startswith("train.py:") for finding in wrong if finding.where)
    assert os.getcwd() == folder


@pytest.mark.parametrize("code", RULES)
def test_an_example_is_short_and_its_two_loops_differ_little(code: str) -> None:
    example = RuleExample.of(code)
    marks = [mark for mark, _ in example.lines]
    assert len(marks) <= 32 and 1 <= marks.count("-") + marks.count("+") <= 6
    assert max(len(line) for _, line in example.lines) <= 110
    assert "# wrong" not in str(example) and "# right" not in str(example)
    assert str(example).count("\n- ") == marks.count("-") and str(example).count("\n+ ") == marks.count("+")


def test_the_numbers_of_an_example_show_what_its_rule_compares() -> None:
    wrong, right = (_rows("C3", mark) for mark in "-+")
    assert (wrong["backwards"], wrong["steps"], wrong["steps after so many losses"]) == (
        "16",
        "4",
        "1 after 1, 3 after 4",
    )
    assert right["steps after so many losses"] == "4 after 4"
    assert [one["α: 1 if the gradient is as long as its window's"] for one in (wrong, right)] == ["0.25 to 1", "1"]
    late = _rows("C9", "-")
    assert (late["forwards with gradients"], late["backwards"]) == ("48", "3")
    assert late["cosine: 1 if it points the same way"] == "not compared" and numbers_of("print('nothing')") is None


def _rows(code: str, mark: str) -> dict[str, str]:
    numbers = numbers_of(RuleExample.of(code).source(mark))
    assert numbers is not None
    return numbers.rows()
