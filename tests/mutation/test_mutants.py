"""The mutation harness: it makes every kind of mutant, tells them apart, and the checkup flags some that it must."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import cache

import pytest

from rislab.checkup.rules import RULES
from rislab.faults.catalogue import find_fault
from tests.mutation import confusion, report
from tests.mutation.mutants import FUNCTIONS, OPERATORS, Mutant, mutants, source, spliced
from tests.mutation.trial import SETTINGS, correct, harm, observed, outcome, run_mutant


@cache
def known(loop: str) -> dict[str, Mutant]:
    """Mutants of a loop by their names without line numbers."""
    return {report.key(mutant): mutant for mutant in mutants(loop)}


@pytest.mark.slow
@pytest.mark.parametrize("loop", FUNCTIONS)
def test_every_operator_makes_mutants_that_compile_and_differ(loop: str) -> None:
    found = mutants(loop)
    assert {mutant.operator for mutant in found} == set(OPERATORS)
    assert len({mutant.name for mutant in found}) == len(found)
    assert len({mutant.source for mutant in found} | {source(loop)}) == len(found) + 1
    assert found == mutants(loop)
    for mutant in found:
        compile(mutant.source, mutant.name, "exec")
        assert mutant.diff


def test_a_mutant_is_one_edit() -> None:
    assert known("plain")["train swap `model.train()` and `running = 0.0`"].diff.count("running = 0.0") == 2
    assert "windows(data, K - 1)" in known("plain")["train K − 1 in `windows(data, K)`"].source
    dedented = known("plain")["train dedent `for window in windows(data, K):`"].source
    assert "\n    for window in windows(data, K):\n        total" in dedented
    assert "if not (scheduler is not None and scaler.get_scale() >= before):" in "".join(
        mutant.source for mutant in known("plain").values() if mutant.operator == "negate"
    )


@pytest.mark.slow
def test_a_function_that_is_only_written_anew_trains_the_same() -> None:
    text = source("fit")
    fit = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == "fit")
    found, true = outcome("fit", spliced(text, fit, ast.unparse(fit)), SETTINGS["fit"][0]), correct("fit", 1)
    assert not found.crash
    assert not found.faults
    assert not harm(found, true)
    assert not observed(found, true)


CAUGHT = (
    "fit delete `scaler.scale(weight * loss.total).backward()`",
    "fit delete `scaler.step(optimizer)`",
    "fit dedent `batch = data[indices]`",
    "fit dedent `meter.add(loss, weight)`",
    "windows K + 1 in `first + size`",
    "train delete `optimizer.zero_grad(set_to_none=True)`",
    "train dedent `total = sum((len(x) for x, y in window))`",
    "train dedent `scaler.scale(share * loss).backward()`",
    "train dedent `reported.append(running / sum((len(x) for x, y in data)))`",
    "train swap `optimizer.zero_grad(set_to_none=True)` and `for x, y in window:`",
    "train K + 1 in `windows(data, K)`",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUGHT)
def test_a_mutant_that_breaks_the_loop_is_flagged(name: str) -> None:
    loop = "plain" if name.startswith("train") else "fit"
    found = outcome(loop, known(loop)[name].source, SETTINGS[loop][0])
    assert harm(found, correct(loop, 1))
    assert found.faults


@pytest.mark.slow
def test_verdicts_and_their_report() -> None:
    kinds = {
        "train delete `optimizer.zero_grad(set_to_none=True)`": "flagged",
        "train delete `share = len(x) / total`": "loud",
        "train swap `model.train()` and `running = 0.0`": "equivalent",
    }
    verdicts = [run_mutant(known("plain")[name]) for name in kinds]
    assert [verdict.kind for verdict in verdicts] == list(kinds.values())
    assert not any(verdict.unjust or verdict.blamed for verdict in verdicts)
    text = report.text(verdicts, [], 1.0)
    assert "flagged**, of those that change the weights or the reported loss in silence: **100.0 % (1 of 1)**; " in text
    assert "rightly named**, of the flagged: **100.0 % (1 of 1)**" in text
    assert "NameError" in text
    assert all(mutant.mutant.name in text and report.entry(mutant) for mutant in verdicts)


def test_reasons_are_of_mutants_that_exist() -> None:
    assert set(report.REASONS) <= set().union(*(known(loop) for loop in FUNCTIONS))


def test_right_names_are_names_of_rules_and_of_mutants_that_exist() -> None:
    names = {name for rule in RULES.values() for name in (*rule.faults, *rule.others)}
    assert set(report.RIGHT_NAMES) <= names
    mutants = set().union(*(known(loop) for loop in FUNCTIONS))
    for edits in report.RIGHT_NAMES.values():
        for edit in edits:
            assert any(re.search(edit, mutant) for mutant in mutants), edit


@pytest.mark.slow
def test_a_flagged_mutant_under_another_name_is_not_rightly_named() -> None:
    verdict = run_mutant(known("plain")["train delete `optimizer.zero_grad(set_to_none=True)`"])
    assert report.is_named(verdict)
    other = {
        number: [dataclasses.replace(finding, name="window size") for finding in found]
        for number, found in verdict.found.items()
    }
    assert not report.is_named(dataclasses.replace(verdict, found=other))


@pytest.mark.slow
def test_the_confusion_table() -> None:
    fault = find_fault("divided twice")
    rows = [confusion.row((name, {"optimiser": "sgd"})) for name in (fault.name, "")]
    assert [row.named() for row in rows] == ["name", "no"]
    text = confusion.text(rows)
    assert "**100.0 % (1 of 1)**" in text
    assert "the correct loop flagged, of the same settings: 0.0 % (0 of 1)" in text
