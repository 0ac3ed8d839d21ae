"""Figures of faults: they draw what was measured, mark what they cannot draw, and fit light and dark pages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import pytest

from rislab.faults import catalogue, comparison
from rislab.faults.comparison import ComparisonCache, FaultReport, OptimiserRun
from rislab.plots import faults as fault_plots
from rislab.plots.faults import loss_comparison, overview, signals, weight_grids
from rislab.plots.style import template

CACHE = ComparisonCache()
DRAWN = (signals, weight_grids, overview, lambda run, *names: loss_comparison({run.optimiser: run}, *names))


def run_of(name: str, epochs: int = 2, **options: str) -> OptimiserRun:
    return CACHE.compare_runs(catalogue.find_fault(name), epochs=epochs, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def never() -> OptimiserRun:
    return run_of("never divided", optimiser="adam")


@pytest.fixture(scope="module")
def stuck() -> OptimiserRun:
    return run_of("step in a branch never taken")


@pytest.fixture(scope="module")
def shifted() -> OptimiserRun:
    return run_of("window off by one")


@pytest.fixture(scope="module")
def bypassed() -> OptimiserRun:
    """Windows with infinite gradients: the faulty loop takes their steps, the correct one skips them."""
    return run_of("scaler bypassed")


@pytest.fixture(scope="module")
def report() -> FaultReport:
    """Of a fault that no training shows."""
    return comparison.fault_report(catalogue.find_fault("conjugated in the generator"))


def named(figure: go.Figure, name: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name == name and list(trace.x) != [None]]  # no entry of the legend


def grids(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


@pytest.mark.slow
def test_losses_of_both_loops_stand_on_the_same_axes(never: OptimiserRun, shifted: OptimiserRun) -> None:
    # The second column need not be of the same fault.
    figure = loss_comparison({"adam": never, "sgd": shifted})
    for name, loops in (("correct", [never.correct, shifted.correct]), ("faulty", [never.faulty, shifted.faulty])):
        for part, values in (
            ("reported", [[window.loss for window in one.step_records] for one in loops]),
            ("true", [one.true_loss for one in loops]),
            ("epoch as reported", [[end.train for end in one.epoch_records] for one in loops]),
            ("same data", [[end.train_eval for end in one.epoch_records] for one in loops]),
            ("validation", [[end.validation for end in one.epoch_records] for one in loops]),
        ):
            traces = named(figure, f"{name}, {part}")
            assert [trace.xaxis for trace in traces] in (["x", "x2"], ["x3", "x4"])
            for trace, expected in zip(traces, values, strict=True):
                np.testing.assert_array_equal(trace.y, np.asarray(expected, dtype=float))
    assert [axis.type for axis in figure.select_yaxes()] == ["log"] * 4


@pytest.mark.slow
def test_every_name_is_in_the_legend_once(never: OptimiserRun) -> None:
    for draw in DRAWN:
        shown = [trace.name for trace in draw(never).data if trace.type == "scatter" and trace.showlegend is not False]
        assert len(shown) == len(set(shown))
        legends = [trace.legend for trace in draw(never).data if trace.name in shown and trace.showlegend is not False]
        assert all(legends.count(legend) <= 6 for legend in legends)


def test_signals_are_what_was_measured(never: OptimiserRun) -> None:
    figure = signals(never)
    drawn = named(figure, "faulty")
    for trace, values in zip(drawn, ("alpha", "cosine", "steps", "head_rate", "relative_update"), strict=True):
        np.testing.assert_array_equal(trace.y, getattr(never.faulty, values))
    assert figure.layout.yaxis2.type is None  # α of 4 needs no logarithm
    wide = dataclasses.replace(never, faulty=dataclasses.replace(never.faulty, alpha=1000 * never.faulty.alpha))
    assert signals(wide).layout.yaxis2.type == "log"


def test_the_grid_writes_the_measured_weights(never: OptimiserRun) -> None:
    correct, faulty = grids(weight_grids(never))
    assert [list(row) for row in correct.text[:3]] == [
        ["1"] * 4 + [""] * 7,
        [""] * 4 + ["1"] * 4 + [""] * 3,
        [""] * 8 + ["1"] * 3,
    ]
    assert list(faulty.text[2][8:]) == ["2.5", "2.5", "5"]
    # An exact share has the middle colour, another micro-batch's place none.
    assert np.nanmax(np.abs(correct.z)) < 0.02  # root of the error of a least-squares fit in float32, about 1e-4
    assert np.isnan(correct.z[0][4:]).all()
    assert faulty.z[0][0] == pytest.approx(3**0.5, rel=1e-3)


def test_a_leak_from_another_window_is_written_and_coloured(shifted: OptimiserRun) -> None:
    faulty = grids(weight_grids(shifted))[1]
    assert list(faulty.text[1][1:4]) == ["1", "1", "1"]
    assert (np.asarray(faulty.z[1][1:4]) > 0.9).all()
    assert list(faulty.text[0][:4]) == ["4", "0", "0", "0"]


def test_frames_are_the_declared_windows_and_bars_what_was_reported(never: OptimiserRun, shifted: OptimiserRun) -> None:
    figure = weight_grids(shifted)
    boxes = [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.xref == "x2"]
    assert boxes[:3] == [(0.5, 4.5), (4.5, 8.5), (8.5, 11.5)]
    (bars,) = named(figure, "faulty: end of a window, as reported")
    assert list(bars.x[:3]) == [1.5, 5.5, 9.5]
    (bars,) = named(weight_grids(never), "faulty: end of a window, as reported")
    assert list(bars.x[:3]) == [4.5, 8.5, 11.5]


@pytest.mark.slow
def test_no_step_is_a_sign_and_not_a_gap(stuck: OptimiserRun, never: OptimiserRun) -> None:
    figure = weight_grids(stuck)
    (signs,) = named(figure, "no step was taken")
    assert len(signs.x) == 11 * 2
    assert named(weight_grids(never), "no step was taken") == []
    curves = signals(stuck)
    (alpha,) = [trace for trace in named(curves, "faulty: not a number, or no step") if trace.yaxis == "y2"]
    assert list(alpha.x) == [1, 2, 3, 4, 5, 6]
    (still,) = named(curves, "faulty: 0 or less")
    assert len(still.x) == 6 and "0" in still.hovertext[0]
    (skipped,) = named(curves, "faulty, reported as skipped × 6")
    assert "epoch 1" in skipped.hovertext[0]


@pytest.mark.slow
def test_a_step_on_infinity_and_a_single_infinite_gradient_have_signs_of_their_own(bypassed: OptimiserRun) -> None:
    figure = weight_grids(bypassed)
    assert named(figure, "the step was on NaN or infinity")
    # The correct loop skips the poisoned window, and that is no step.
    assert named(figure, "no step was taken")


@pytest.mark.slow
def test_what_a_logarithm_cannot_show_is_marked_with_its_value(bypassed: OptimiserRun) -> None:
    tail = run_of("loop tail in a branch never taken", epochs=1)
    marks = named(loss_comparison({"adam": tail}), "faulty: 0 or less")
    assert marks and "reported 0" in marks[0].hovertext[0]
    infinite = named(loss_comparison({"adam": bypassed}), "correct: not a number, or no step")
    assert infinite and any(word in infinite[0].hovertext[0] for word in ("NaN", "∞"))


@pytest.mark.slow
def test_checks_show_both_packages(report: FaultReport) -> None:
    figure = fault_plots.check_table(report)
    (heat,) = figure.data
    red = {heat.y[row] for row in range(len(heat.y)) if heat.z[row][1] == 1}
    assert red >= {f"{name} (conventions)" for name in report.fault.conventions}
    assert all(row[0] == 0 for row in heat.z)
    assert all(text[0].startswith("✓") for text in heat.text)
    assert {text[1][0] for text in heat.text} == {"✓", "✗"}
    assert f"{len(red)} red faulty" in figure.layout.title.text


def test_a_report_has_curves_or_checks(never: OptimiserRun, report: FaultReport) -> None:
    assert len(fault_plots.fault_figures(FaultReport(never.fault, {"adam": never}))) == 2
    (only,) = fault_plots.fault_figures(report)
    assert only.data[0].type == "heatmap"


@pytest.mark.parametrize("draw", DRAWN)
def test_a_hidden_fault_is_named_nowhere(draw: Callable[..., go.Figure], never: OptimiserRun) -> None:
    text = draw(never, ("correct", "this loop")).to_json().lower()
    assert "never" not in text and "divided" not in text and "faulty" not in text
    assert "this loop" in text


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWN)
def test_figures_turn_dark_and_are_pure(draw: Callable[..., go.Figure], stuck: OptimiserRun) -> None:
    figure = draw(stuck)
    assert draw(stuck).to_json() == figure.to_json()
    assert not figure.layout.paper_bgcolor and not figure.layout.plot_bgcolor
    figure.update_layout(template=template("dark"))
    colours = set(re.findall(r"#[0-9a-fA-F]{6}", figure.update_layout(template=None).to_json()))
    assert "#000000" not in colours and "#ffffff" not in colours
