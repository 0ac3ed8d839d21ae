"""A sweep: every cell of the grid once, nothing twice, and one page whose axes and numbers are those of the reports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from rislab import provenance
from rislab.cli.main import main
from rislab.errors import InputError
from rislab.reports import figure_content, gallery, measured, miniatures, parameter_checks, sweep, sweep_page

SOURCE = """from IPython.display import display
from rislab.reports.measured import Measured
from rislab import provenance
curve = {'data': [{'type': 'scatter', 'x': [0, 1, length], 'y': [1, 10.0 ** -length, 0.5]}],
         'layout': {'yaxis': {'type': 'log', 'title': {'text': 'loss'}}, 'shapes': [{'x0': 1}]}}
display({'application/vnd.plotly.v1+json': curve}, raw=True)"""
END = """print('length', length, 'word', word, '<b>')
display(Measured({'twice <the> length': 2.0 * length, 'threads': provenance.threads()}))
assert word != 'bad', 'bad <word>'"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lab")
    cells = [
        new_code_cell(
            'length: int = 2\nword: str = "good"\nsteps: list[int] = [1, 2]', metadata={"tags": ["parameters"]}
        ),
        new_code_cell(SOURCE),
        new_code_cell(END),
    ]
    (root / "notebooks").mkdir()
    (root / "reports").mkdir()
    nbformat.write(new_notebook(cells=cells), root / "notebooks" / "01_small.ipynb")
    return root


@pytest.fixture
def chosen(lab: Path, monkeypatch: pytest.MonkeyPatch) -> gallery.NamedSet:
    monkeypatch.chdir(lab)
    return gallery.find_set("small", lab / "notebooks")


def test_a_grid_is_read_as_typed(chosen: gallery.NamedSet) -> None:
    axes = sweep.parse_grid(chosen, ["length=1,2,3", "steps=[1, 2],[3]"])
    assert axes == {"length": [1, 2, 3], "steps": [[1, 2], [3]]}
    cells = sweep.sweep_cells(chosen, axes, {"word": "other"})
    assert [cell.values for cell in cells] == [{"length": a, "steps": b} for a in (1, 2, 3) for b in ([1, 2], [3])]
    assert all(cell.parameters["word"] == "other" for cell in cells)
    assert len({cell.name for cell in cells}) == len({cell.key for cell in cells}) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", cell.name) for cell in cells)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["length"], "grid holds 'length'"),
        (["length="], "grid holds 'length='"),
        (["length=1,,2"], "grid holds"),
        (["lenght=1,2"], "did you mean 'length'"),
        (["length=1,x"], "parameter length is 'x'"),
        (["length=1,1"], "twice"),
        (["length=1", "length=2"], "names length twice"),
        ([], "the grid is empty"),
    ],
)
def test_a_bad_grid_is_one_sentence(chosen: gallery.NamedSet, texts: list[str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        sweep.parse_grid(chosen, texts)


def test_too_many_cells_and_values_out_of_range_are_refused_before_any_runs(
    chosen: gallery.NamedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="the grid has 1001 cells"):
        sweep.sweep_cells(chosen, {"length": list(range(1001))}, {})

    def check(values: dict[str, Any]) -> None:
        if values["length"] > 5:
            raise InputError(f"length is {values['length']}; allowed: 0…5")

    monkeypatch.setattr(parameter_checks, "check_for", lambda name: check)
    with pytest.raises(InputError, match="cell length = 6: length is 6"):
        sweep.sweep_cells(chosen, {"length": [1, 6]}, {})


@pytest.mark.process
def test_every_cell_runs_once_and_the_page_shows_what_it_measured(
    chosen: gallery.NamedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = sweep.parse_grid(chosen, ["length=3", "word=good,bad"])
    cells = sweep.sweep_cells(chosen, axes, {})
    words = ["sweep", "small", "--grid", "length=3", "word=good,bad", "--workers", "2", "-o", str(tmp_path)]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "(1 of 2 reports passed)" in printed.out and "bad <word>" in printed.err and "reused" not in printed.err
    # What passed is there; what failed is tried again, and so is what was removed, half-written or of other values.
    monkeypatch.setenv("RISLAB_THREADS", "1")
    results = {one.name: one for one in sweep.run_sweep(chosen, cells, tmp_path, workers=1)}
    assert [results[cell.name].reused for cell in cells] == [True, False]
    assert [results[cell.name].verdict for cell in cells] == ["passed", "failed"]
    assert [results[cell.name].numbers["twice <the> length"] for cell in cells] == [6.0, 6.0]
    assert all(one.numbers["threads"] == 1 for one in results.values())
    good, page, record = (
        cells[0],
        tmp_path / f"{cells[0].name}.html",
        tmp_path / sweep.RECORDS / f"{cells[0].name}.json",
    )
    contents = page.read_bytes(), record.read_bytes()
    other = sweep.sweep_cells(chosen, axes, {"steps": [5]})[0]
    assert sweep.earlier_result(good, tmp_path) is not None and sweep.earlier_result(other, tmp_path) is None
    page.unlink()
    assert sweep.earlier_result(good, tmp_path) is None
    page.write_bytes(contents[0])
    record.write_text("{half")
    assert sweep.earlier_result(good, tmp_path) is None
    record.write_bytes(contents[1])
    shown = sweep_page.write_sweep_page(chosen, axes, cells, results, tmp_path, figure=1, seconds=1.0).read_text()
    assert shown.count('data-plotly="still"') == 2 and "2 cells of length × word: 1 passed, 1 failed" in shown
    assert (
        "twice &lt;the&gt; length" in shown and "bad &lt;word&gt;" in shown and "<b>" not in shown.split("<script>")[0]
    )
    drawn = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', shown)]
    ranges = {json.dumps([one["layout"][name]["range"] for name in ("xaxis", "yaxis")]) for one in drawn}
    assert len(ranges) == 1
    (low, high), (bottom, top) = json.loads(ranges.pop())
    assert low < 0 and high > 3 and bottom < -3 and top > 0  # y is logarithmic: its limits are exponents
    assert all(one["layout"]["xaxis"]["showticklabels"] and "shapes" not in one["layout"] for one in drawn)
    part = sweep_page.write_sweep_page(chosen, axes, cells, {}, tmp_path, figure=1, seconds=0.0).read_text()
    assert "none yet" in part and part.count("not run") >= 2


def test_limits_leave_out_what_is_no_number() -> None:
    figures = [
        {"data": [{"x": ["a", "b"], "y": [1, None]}, {"y": [3, float("inf")], "yaxis": "y2"}], "layout": {}},
        {"data": [{"x": ["a"], "y": [5]}], "layout": {"yaxis2": {"range": [0, 1]}}},
    ]
    found = miniatures.shared_ranges(figures)
    assert set(found) == {"xaxis", "yaxis", "yaxis2"} and found["yaxis"][0] < 1 and found["yaxis"][1] > 5
    packed = {"dtype": "f8", "bdata": "AAAAAAAA8D8AAAAAAAAAQA=="}
    np.testing.assert_array_equal(figure_content.coordinates(packed), [1.0, 2.0])


def test_numbers_survive_the_notebook() -> None:
    told = measured.Measured({"a": 1.5, "b": float("nan"), "c": 2})
    bundle = json.loads(json.dumps(told._repr_mimebundle_()))
    cell = {"outputs": [{"data": bundle}]}
    found = measured.measured_numbers(nbformat.from_dict({"cells": [cell]}))
    assert found["a"] == 1.5 and np.isnan(found["b"]) and found["c"] == 2
    with pytest.raises(InputError, match="a is 'x'"):
        measured.Measured({"a": "x"})  # type: ignore[dict-item]


def test_the_command_says_what_is_wrong(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(lab)
    out = ["-o", str(tmp_path)]
    for words, text in (
        (["sweep", "smal", "--grid", "length=1,2"], "unknown report 'smal'"),
        (["sweep", "small", "--grid", "length=1,2", "--workers", "0", *out], "workers is 0"),
        (["sweep", "small", "--grid", "length=1,2", "--figure", "0", *out], "figure is 0"),
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert text in err and len(err.splitlines()) == 1


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RISLAB_THREADS", raising=False)
    assert provenance.threads() == max(1, provenance.cores() - 1)
    monkeypatch.setenv("RISLAB_THREADS", "3")
    assert provenance.threads() == 3
