"""Figures: every source is one that exists, and the page says what is not measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.figures import measure, timed
from tests.figures.measure import ROOT, Benchmarks, sizes, value_of
from tests.figures.table import Asked, asked, figures_page

ROWS = asked()


@pytest.mark.slow
def test_every_source_is_one_that_exists() -> None:
    names = {row.source.split(" ", 1)[1].rpartition(" ")[0] for row in ROWS if row.source.startswith("benchmark ")}
    texts = "\n".join(path.read_text() for path in (ROOT / "tests" / "benchmarks").glob("test_*.py"))
    for name in names:
        assert f"def {name.partition('[')[0]}(" in texts, name
    for row in ROWS:
        if row.source.startswith(("scoreboard ", "lead ", "page ")):
            assert value_of(row.source, Benchmarks({}), {}) is not None, row.what
    assert {row.source[5:] for row in ROWS if row.source.startswith("here ")} >= set(sizes())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_what_is_asked_is_a_limit_with_a_command(row: Asked) -> None:
    assert row.limit[1] >= 0
    assert row.command or not row.source


def test_the_page_says_reached_short_and_not_measured() -> None:
    rows = [
        Asked("speed", "first", "≤ 1.1", "here a", "make a"),
        Asked("speed", "second", "≥ 90 %", "here b", "make b", "because", percent=True),
        Asked("more", "third", "= 0 s", "benchmark c seconds", "make c", "because"),
    ]
    page = figures_page(rows, Benchmarks({}), {"a": 1.05, "b": 0.5})
    assert "3 figures: 1 reached, 1 fall short, 1 not measured." in page
    assert "| first | ≤ 1.1 | 1.05 | reached | `make a` |  |" in page
    assert "| second | ≥ 90 % | 50 % | **short** | `make b` | because |" in page
    assert "| third | = 0 s | not measured |  | `make c` |  |" in page


def test_of_several_cases_the_worst_counts() -> None:
    known = Benchmarks({"a[1]": {"x": 1.0}, "a[2]": {"x": 3.0}, "a[3]": {}, "ab[1]": {"x": 9.0}})
    for limit, worst in (("≤ 2", 3.0), ("≥ 2", 1.0)):
        assert Asked("speed", "all", limit, "benchmark a[*] x", "make a").value(known, {}) == worst
    assert value_of("benchmark b[*] x", known, {}) is None


def test_the_page_in_the_repository_has_every_figure() -> None:
    text = (ROOT / "reports" / "figures.md").read_text()
    assert re.findall(r"^\| (.*?) \| [≤≥=]", text, re.M) == [row.what for row in ROWS]


@pytest.mark.process
def test_a_command_is_timed_if_it_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "TIMED", tmp_path / "timed.json")
    monkeypatch.setattr(timed, "TIMED", tmp_path / "timed.json")
    assert timed.main("make nothing", sys.executable, "-c", "raise SystemExit(3)") == 3
    assert timed.main("make something", sys.executable, "-c", "") == 0
    (tmp_path / "before.html").write_bytes(bytes(9_000_000))
    os.utime(tmp_path / "before.html", (1, 1))
    report = "from pathlib import Path\nfor size in (1000, 3_000_000): Path(f'{size}.html').write_bytes(bytes(size))"
    monkeypatch.chdir(tmp_path)
    assert timed.main("a report", sys.executable, "-c", report) == 0
    known = Benchmarks({})
    known.take(tmp_path / "none.json")
    assert value_of("timed largest page of a report megabytes", known, {}) == 3
    assert value_of("timed largest page of make something megabytes", known, {}) is None
    assert value_of("timed make nothing minutes", known, {}) is None
    assert (value_of("timed make something seconds", known, {}) or 0) > 0


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_names_of_benchmarks_are_collected() -> None:
    words = [
        "-m",
        "pytest",
        "tests/benchmarks",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
    ]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    collected = set(re.findall(r"::(.+)$", done.stdout, re.M))
    named = {row.source.split(" ", 1)[1].rpartition(" ")[0] for row in ROWS if row.source.startswith("benchmark ")}
    groups = {name[:-3] for name in named if name.endswith("[*]")}
    assert groups <= {name.partition("[")[0] for name in collected}
    assert {name for name in named if not name.endswith("[*]")} - collected == set()
