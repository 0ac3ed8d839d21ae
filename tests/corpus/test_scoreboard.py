"""The runner and its figures."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import yaml

from rislab.checkup.rules import RULES
from tests.corpus import __main__
from tests.corpus.cases import FOLDER, Pair, clean, pairs
from tests.corpus.picture import DOT, beside, place_of
from tests.corpus.scoreboard import Scoreboard, names_case, text, wilson
from tests.corpus.tools import TOOLS, UNDECLARED, Outcome, Said
from tests.corpus.trials import Trial

LABELS = yaml.safe_load((FOLDER / "labels.yaml").read_text())


def of_kind(label: str) -> Pair:
    return next(pair for pair in pairs() if label in pair.labels and not pair.harmless)


def test_labels_hold_names_of_tools_that_exist() -> None:
    ours = {name for rule in RULES.values() for name in (*rule.faults, *rule.others)}
    families = {tool.name.split()[0] for tool in TOOLS}
    for label, row in LABELS.items():
        assert row.pop("means"), label
        assert set(row) <= families
        assert set(row.get("rislab", ())) <= ours


def test_a_finding_names_a_case_by_its_label_an_alias_or_a_name_word_for_word() -> None:
    pair = of_kind("trained in evaluation mode")
    assert names_case(UNDECLARED, [Said("eval never undone", "error")], pair, LABELS)
    assert names_case(UNDECLARED, [Said("something", "error", ("eval never undone",))], pair, LABELS)
    assert names_case("torch-preflight", [Said("TG011", "error")], pair, LABELS)
    assert names_case("mypy", [Said(pair.names[0], "error")], pair, LABELS)
    assert not names_case("torch-preflight", [Said("eval never undone", "error")], pair, LABELS)
    assert not names_case(UNDECLARED, [Said("never zeroed", "error")], pair, LABELS)


def test_interval_of_wilson() -> None:
    assert wilson(0, 0) == (0, 1)
    low, high = wilson(5, 10)
    assert low == pytest.approx(0.2366, abs=1e-4) and high == pytest.approx(0.7634, abs=1e-4)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == pytest.approx(1)


@pytest.mark.slow
def test_figures_count_errors_apart_from_warnings_and_harmless_pairs_as_correct() -> None:
    pair, harmless = of_kind("trained in evaluation mode"), next(pair for pair in pairs() if pair.harmless)
    warning = Outcome((Said("eval never undone", "warning"),))
    error = Outcome((Said("never zeroed", "error"),))
    found = [
        Trial(UNDECLARED, pair.name, "faulty", warning, 1.0, 1.0),
        Trial(UNDECLARED, pair.name, "fixed", Outcome(), 1.0, 1.0),
        Trial(UNDECLARED, harmless.name, "faulty", error, 1.0, 1.0),
        Trial(UNDECLARED, harmless.name, "fixed", Outcome(cannot="time"), 1.0, 1.0),
    ]
    board = Scoreboard(list(pairs()), list(clean()), found, LABELS)
    assert board.verdict(UNDECLARED, pair) == "named"
    rows = [board.row(UNDECLARED, split) for split in ("dev", "held")]
    assert [sum(row.flagged[n] for row in rows) for n in (0, 1)] == [0, 1]
    assert sum(row.spoken[0] for row in rows) == sum(row.named[0] for row in rows) == 1
    assert [sum(row.accused[n] for row in rows) for n in (0, 1)] == [1, 3]
    assert sum(row.cannot[0] for row in rows) == 1
    assert pair.name in text(board, ["head"], {})


@pytest.mark.process
def test_two_cases_from_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not what earlier runs found.
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    chosen = {"eval_until_the_next_epoch": ["rislab", "anomaly"], "nll_loss_of_probabilities": ["anomaly"]}
    for name, tools in chosen.items():
        options = ["--tools", ",".join(tools), "--cases", name, "--limit", "60", "--processes", "1"]
        monkeypatch.setattr("sys.argv", ["tests.corpus", *options, "--folder", str(tmp_path)])
        __main__.main()
        plain = json.loads((tmp_path / "scoreboard.json").read_text())
        assert set(plain["cases"]) == {name}
        assert set(plain["cases"][name]["verdicts"]) == set(tools)
        assert plain["cases"][name]["verdicts"]["anomaly"] == "silent"
        assert (tmp_path / "scoreboard.md").read_text().startswith("# Scoreboard")
        assert (tmp_path / "scoreboard.svg").read_text().count("<circle") == len(tools)


def test_numbers_in_the_picture_touch_no_mark_and_no_other_number() -> None:
    marks = [place_of(*shares) for shares in ((0.0, 0.0), (0.0, 0.0), (0.02, 0.02), (0.06, 0.01), (0.02, 0.68))]
    numbers = beside(marks)
    assert all(math.dist(number, mark) > DOT + 6 for number in numbers for mark in marks)
    assert all(math.dist(one, other) > 12 for one, other in itertools.combinations(numbers, 2))
    # Nor far from its own.
    assert all(math.dist(number, mark) < 5 * DOT for number, mark in zip(numbers, marks, strict=True))
