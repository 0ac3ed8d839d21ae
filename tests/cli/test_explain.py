"""`rislab explain`."""

from __future__ import annotations

import pytest

from rislab.checkup.rules import RULES
from rislab.cli.main import main
from rislab.faults.catalogue import find_fault


def test_a_rule_is_explained_with_where_its_faults_have_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "never divided"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("C1 gradient scale (fault)\n") and find_fault("never divided").reference in text


def test_all_rules_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--all"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines() if line.endswith(("(fault)", "(warning)", "(note)"))] == [
        *RULES
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "CODE is nothing; allowed"),
        (["C1", "--all"], "CODE is 'C1' and --all; allowed"),
        (["x"], "CODE is 'x'; allowed: codes such as C3"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out
