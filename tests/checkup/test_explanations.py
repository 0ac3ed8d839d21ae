"""Rules in words."""

from __future__ import annotations

import pytest

from rislab.checkup.explanations import explain, rules_named
from rislab.checkup.rule_examples import RuleExample
from rislab.checkup.rules import RULES
from rislab.errors import InputError


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("c3", ["C3"]),
        ("never divided", ["C1"]),
        ("clipping", ["C7"]),
        ("tail never stepped", ["C8", "C10"]),
        ("P", [code for code in RULES if code[0] == "P"]),
    ],
)
def test_names_mean_rules(name: str, codes: list[str]) -> None:
    assert [rule.code for rule in rules_named(name)] == codes


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"CODE is 'never devided' \(did you mean 'never divided'\?\)"):
        rules_named("never devided")


@pytest.mark.parametrize("code", RULES)
def test_an_explanation_holds_all_that_the_rule_says(code: str) -> None:
    rule = RULES[code]
    text = explain(rule, {name: "someone/somewhere#1" for name in rule.faults})
    words = " ".join(text.split())
    for part in (rule.code, rule.name, rule.what, rule.why, rule.needs, rule.fix, rule.reference, *rule.fixes):
        assert " ".join(part.split()) in words
    assert f"--ignore {code}," in words and (f"# rislab: ignore[{code}]" in words) is (code[0] == "C")
    assert str(RuleExample.of(code)).splitlines()[-1] in text
    assert all(f"{name}: someone/somewhere#1" in text for name in rule.faults)
