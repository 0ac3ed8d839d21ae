"""The registry of rules: complete, in step with the catalogue of faults, and the only place that names a finding."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

import rislab.checkup
from rislab.checkup.findings import Finding, as_fault, as_note, as_warning
from rislab.checkup.fixes import FIXES
from rislab.checkup.rules import RULES, Code
from rislab.faults.catalogue import FAULTS

ROOM = Path(rislab.checkup.__file__).parent
CATALOGUE = {each.name for each in FAULTS}
# Names that the findings of more than one rule have, each with the codes.
SHARED = {
    "not judged": {"C1", "C9", "C14", *(f"P{number}" for number in range(1, 12))},
    "left-overs leak": {"C2", "C3"},
    "tail never stepped": {"C8", "C10"},
    "scaler bypassed": {"C5", "C13"},
    "loss detached": {"C4", "C9", "P5"},
    "loop tail in a branch never taken": {"C9", "C14"},
    "weights kept in bf16": {"C4", "P8"},
    "detached backbone": {"C4", "P5"},
    "tensors that no optimiser holds": {"C4", "P5"},
    "NaN reached a step": {"C5", "P1"},
    "NaN replaced by the running mean": {"C14", "P1"},
    "in-batch coupling": {"P3", "P10"},
}


def test_every_code_has_one_rule_and_every_rule_says_what_it_is() -> None:
    assert list(RULES) == [f"C{number}" for number in range(1, 17)] + [f"P{number}" for number in range(1, 12)]
    assert list(RULES) == [code.value for code in Code]
    for code, rule in RULES.items():
        assert rule.code == code
        assert all((rule.name, rule.what, rule.why, rule.fix, rule.needs))
        assert rule.what.endswith(".") and rule.why.endswith(".")
        assert rule.severity in ("fault", "warning", "note")
        assert rule.faults or rule.others
        assert set(rule.fixes) == {*rule.faults, *rule.others}
    assert len({rule.name for rule in RULES.values()}) == len(RULES)


def test_a_name_belongs_to_one_rule_but_for_those_that_are_shared() -> None:
    codes: dict[str, set[str]] = {}
    for code, rule in RULES.items():
        assert max(Counter([*rule.faults, *rule.others]).values()) == 1
        for name in rule.fixes:
            codes.setdefault(name, set()).add(code)
    assert {name: where for name, where in codes.items() if len(where) > 1} == SHARED
    assert set(FIXES) <= set(codes)


@pytest.mark.parametrize("code", RULES)
def test_faults_of_a_rule_are_in_the_catalogue_and_its_other_names_are_not(code: str) -> None:
    assert set(RULES[code].faults) <= CATALOGUE
    assert not set(RULES[code].others) & CATALOGUE


def test_every_finding_that_the_source_can_make_is_of_its_rule() -> None:
    """Calls such as as_fault(Code.CLIPPING, "never clipped", ...); computed names fail in the call if unknown."""
    calls = 0
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) >= 2):
                continue
            code, name = node.args[:2]
            if isinstance(code, ast.Attribute) and ast.unparse(code.value) == "Code" and isinstance(name, ast.Constant):
                assert name.value in RULES[Code[code.attr]].fixes, f"{path.name}:{node.lineno} {name.value}"
                calls += 1
    assert calls > 80


@pytest.mark.parametrize("make", [as_fault, as_warning, as_note])
def test_a_finding_must_have_a_name_that_its_rule_knows(make: type[Finding]) -> None:
    with pytest.raises((KeyError, AssertionError)):
        make(Code.CLIPPING, "never divided", "α = 4")  # type: ignore[arg-type]


def test_docs_lead_to_the_catalogue_else_to_the_documentation_of_torch() -> None:
    assert as_fault(Code.GRADIENT_SCALE, "never divided", "").docs == 'rislab faults "never divided"'
    assert as_fault(Code.CLIPPING, "never clipped", "").docs == RULES["C7"].reference
    assert RULES["C7"].reference.startswith("https://docs.pytorch.org/")
    assert as_note(Code.CLIPPING, "clipping assumed", "").docs == ""
    assert Finding("X1", "of another tool", "fault", "").docs == ""


def test_public_names_of_the_room() -> None:
    assert set(rislab.checkup.__all__) == {
        "RULES", "Rule", "watch", "probe", "run_script", "Finding", "Findings", "assert_no_faults",
    }  # fmt: skip
