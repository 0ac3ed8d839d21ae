"""Figures: the traces are the records, what an axis cannot show is marked, and everybody can read the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest
import torch

from rislab.errors import InputError
from rislab.plots import curves, style
from rislab.plots import precision as precision_plots
from rislab.plots import training as training_plots
from rislab.sanity import checks
from rislab.sanity.precision import AccumulationCell
from rislab.training.records import (
    Counters,
    EpochRecord,
    GradientCounts,
    Record,
    StepRecord,
    Term,
    epoch_records,
    step_records,
)
from tests.plots.test_style import contrast

torch.set_num_threads(1)
NAN, INF = math.nan, math.inf


def window(step: int, epoch: int, loss: float, **changes: Any) -> StepRecord:
    """A window with numbers that differ from field to field, so that a mix-up shows."""
    fields: dict[str, Any] = {
        "epoch": epoch,
        "step": step,
        "phase": "no-curriculum",
        "micro_batches": 4,
        "samples": 60 + step,
        "loss": loss,
        "loss_nmse": loss,
        "loss_nmse_pred": loss,
        "terms": {"nmse": Term(loss, 1.0, 1.0)},
        "requires_grad": True,
        "grad_norm": {"backbone": 3.0 + step, "head": 5.0 + step},
        "grad_norm_clipped": {"backbone": 0.3, "head": 0.5},
        "coverage": GradientCounts(10, 0, 0, 0),
        "learning_rate": {"backbone": 1e-3 * step, "head": 2e-3 * step},
        "loss_scale": 1024.0 * step,
        "found_inf": False,
        "applied": True,
        "reason": "",
        "update_ratio": 1e-3,
        "seconds": 0.01,
    }
    return StepRecord(**{**fields, **changes})


def end(epoch: int, step: int, counters: Counters, **changes: Any) -> EpochRecord:
    """An epoch whose evaluations differ from each other."""
    fields: dict[str, Any] = {"train_eval": 0.4 / epoch, "validation": 0.5 / epoch, "ema": 0.6 / epoch, **changes}
    rest: dict[str, Any] = {
        "train": 0.3,
        "loss_nmse": 0.4,
        "loss_nmse_pred": 0.4,
        "phase": "no-curriculum",
        "seconds": 0.1,
    }
    return EpochRecord(epoch=epoch, epochs=9, step=step, counters=counters, **rest, **fields)


def run(losses: Sequence[float], per_epoch: int = 4, **of_epoch: Any) -> list[Record]:
    """A run of one window per loss, four forwards each, every step applied and every tick taken."""
    records: list[Record] = []
    for step, loss in enumerate(losses, start=1):
        records.append(window(step, 1 + (step - 1) // per_epoch, loss))
        if step % per_epoch == 0:
            records.append(end(step // per_epoch, step, Counters(4 * step, 4 * step, step, 0, step), **of_epoch))
    return records


def change(records: list[Record], step: int, **changes: Any) -> list[Record]:
    """The records with fields of one window replaced."""
    return [
        window(step, r.epoch, r.loss, **changes) if isinstance(r, StepRecord) and r.step == step else r for r in records
    ]


def trace(figure: go.Figure, name: str, group: str | None = None) -> Any:
    """The one trace of that name, in that legend group."""
    matching = [t for t in figure.data if t.name == name and (group is None or t.legendgroup == group)]
    assert len(matching) == 1, [t.name for t in figure.data]
    return matching[0]


def marks(figure: go.Figure, kind: str) -> dict[int, str]:
    """Step to hover text of the marks in a lane."""
    lanes = [t for t in figure.data if t.yaxis == "y2" and t.name == kind]
    return {step: text for lane in lanes for step, text in zip(lane.x, lane.hovertext, strict=True)}


def check(**changes: Any) -> Any:
    fields = {"name": "check", "value": 1e-3, "relation": "<=", "reference": 1e-2, "passed": True, "sentence": "So."}
    return SimpleNamespace(**{**fields, **changes})


def cell(precision: str, count: int, error: float, alpha: float = 1e-4) -> Any:
    fields = {"relative_error": error, "alpha_error": alpha, "seconds_per_step": 0.01, "nmse": 0.2}
    return SimpleNamespace(precision=precision, accumulation_steps=count, **fields)


def every_figure() -> dict[str, go.Figure]:
    records = run([0.9, 0.5, NAN, 0.3, 0.2, -1e-7, 0.1, 0.05])
    return {
        "loss_curves": training_plots.loss_curves({"one": records, "two": run([0.8] * 8)}, lines={"zero matrix": 1.0}),
        "gradient_norms": training_plots.gradient_norms(records, clip_norm=1.0),
        "event counts": training_plots.epoch_counts(records),
        "ladder": training_plots.ladder_figure([check(), check(passed=False, value=NAN)]),
        "accumulation table": precision_plots.accumulation_table([cell("fp32", 1, 4e-7), cell("bf16", 4, NAN)]),
    }


# ------------------------------------------------------------------------------------------- the traces are the records


def test_loss_traces_hold_the_records_exactly() -> None:
    records = run([0.9, 0.7, 0.5, 1 / 3, 0.2, 0.1, 0.3, 0.05])
    figure = training_plots.loss_curves({"mine": records})
    raw = trace(figure, "each window", "mine")
    assert list(raw.y) == [record.loss for record in step_records(records)]
    assert list(raw.x) == [record.step for record in step_records(records)]
    assert raw.customdata.tolist() == [[record.epoch, record.samples] for record in step_records(records)]
    for name, field in (("eval, same data", "train_eval"), ("validation", "validation"), ("averaged weights", "ema")):
        assert list(trace(figure, name).y) == [vars(record)[field] for record in epoch_records(records)]
        assert list(trace(figure, name).x) == [4, 8]
        assert list(trace(figure, name).customdata) == [1, 2]
    assert trace(figure, "eval, same data").mode == "markers"
    assert trace(figure, "validation").line.dash == "dash"


@pytest.mark.parametrize("runs", (1, 2, 4, 9))
def test_a_legend_has_at_most_six_entries_and_names_each_run(runs: int) -> None:
    records = {f"run {number}": run([0.9, 0.5, 0.2, 0.1]) for number in range(runs)}
    lines = {"zero matrix": 1.0, "identity": 0.9, "best constant": 0.8}
    figure = training_plots.loss_curves(records, lines=lines)
    shown = [one for one in figure.data if one.showlegend is not False]
    assert len(shown) <= 6
    assert runs == 9 or set(records) <= {one.legendgroup for one in shown}
    assert all(name in " ".join(one.name for one in shown) for name in lines)
    assert len({one.name for one in shown}) == len(shown) or runs == 1


def test_hover_shows_six_digits_epoch_step_and_samples() -> None:
    text = trace(training_plots.loss_curves({"mine": run([0.5])}), "each window").hovertemplate
    assert all(part in text for part in ("mine", "%{y:.6g}", "epoch %{customdata[0]}", "%{x:d}", "samples"))


def test_absent_evaluations_draw_nothing() -> None:
    figure = training_plots.loss_curves({"mine": run([0.5] * 4, validation=None, ema=None)})
    assert {t.name for t in figure.data} == {"each window", "median of last 3", "eval, same data"}


def test_median_looks_back_as_far_as_its_name_says() -> None:
    figure = training_plots.loss_curves({"mine": run([9.0, 1.0, NAN, 5.0, 3.0, 4.0])})
    assert list(trace(figure, "median of last 3").y) == [9.0, 5.0, 5.0, 3.0, 4.0, 4.0]


def test_median_of_nothing_finite_is_a_gap() -> None:
    smooth = trace(training_plots.loss_curves({"mine": run([1.0, NAN, INF, NAN, 2.0])}), "median of last 3").y
    assert np.array_equal(smooth, [1.0, 1.0, 1.0, NAN, 2.0], equal_nan=True)


def test_reference_lines_carry_name_and_value() -> None:
    figure = training_plots.loss_curves({"mine": run([0.5] * 8)}, lines={"constant": 0.95, "zero matrix": 1.0})
    assert set(trace(figure, "zero matrix = 1").y) == {1.0}
    assert set(trace(figure, "constant = 0.95").y) == {0.95}
    assert [t.name for t in figure.data if t.legendgroup == "levels"] == ["zero matrix = 1", "constant = 0.95"]
    assert len({t.line.dash for t in figure.data if t.legendgroup == "levels"}) == 2
    assert (trace(figure, "constant = 0.95").x[0], trace(figure, "constant = 0.95").x[-1]) == (1, 8)


@pytest.mark.parametrize("level", [0.0, -1.0, NAN])
def test_a_line_that_no_log_axis_shows_is_refused(level: float) -> None:
    with pytest.raises(InputError, match="line 'target'"):
        training_plots.loss_curves({"mine": run([0.5])}, lines={"target": level})


@pytest.mark.parametrize("log", [True, False])
def test_one_button_switches_the_axis_to_and_fro(log: bool) -> None:
    figure = training_plots.loss_curves({"mine": run([0.5, 0.4])}, log=log)
    (menu,) = figure.layout.updatemenus
    (button,) = menu.buttons
    there, back = button.args[0]["yaxis.type"], button.args2[0]["yaxis.type"]
    assert (figure.layout.yaxis.type, back, there) == (("log", "log", "linear") if log else ("linear", "linear", "log"))


def test_axis_title_says_when_the_loss_is_more_than_nmse() -> None:
    records = run([0.5, 0.4])
    weighted = change(records, 2, terms={"nmse": Term(0.3, 1.0, 0.75), "order": Term(0.1, 1.0, 0.25)})
    assert training_plots.loss_curves({"mine": records}).layout.yaxis.title.text == "NMSE (dimensionless)"
    assert "weighted loss" in training_plots.loss_curves({"mine": weighted}).layout.yaxis.title.text


def test_epoch_lines_stand_at_the_ends_and_are_thinned() -> None:
    few = training_plots.loss_curves({"mine": run([0.5] * 12)})
    assert [shape.x0 for shape in few.layout.shapes] == [4, 8, 12]
    many = training_plots.loss_curves({"mine": run([0.5] * 400, per_epoch=4)})
    assert len(many.layout.shapes) == 25
    assert [shape.x0 for shape in many.layout.shapes][:2] == [16, 32]
    assert "every 4 epochs" in many.layout.xaxis.title.text


def test_gradient_norms_before_and_after_clipping() -> None:
    records = run([0.5] * 4)
    figure = training_plots.gradient_norms(records, clip_norm=0.7)
    for group in ("backbone", "head"):
        before, after = trace(figure, "before clipping", group), trace(figure, "after clipping", group)
        assert list(before.y) == [record.grad_norm[group] for record in step_records(records)]
        assert list(after.y) == [record.grad_norm_clipped[group] for record in step_records(records)]
        assert (before.line.dash, after.line.dash) == ("solid", "dash")
    assert set(trace(figure, "clip_norm = 0.7").y) == {0.7}
    assert figure.layout.yaxis.type == "log"


@pytest.mark.parametrize("records", [[], [end(1, 0, Counters())]])
def test_a_run_without_windows_says_so(records: list[Record]) -> None:
    for figure in (
        training_plots.loss_curves({"mine": records}, lines={"zero matrix": 1.0}),
        training_plots.gradient_norms(records, clip_norm=1.0),
    ):
        assert "no windows recorded" in [note.text for note in figure.layout.annotations]


# ---------------------------------------------------------------------------------------- nothing vanishes silently


def test_values_that_no_axis_shows_are_marked_with_step_and_value() -> None:
    figure = training_plots.loss_curves({"mine": run([0.5, NAN, INF, -INF, -1.25e-7, 0.0, 0.4])})
    lost = marks(figure, "not finite")
    assert sorted(lost) == [2, 3, 4]
    assert "loss is NaN" in lost[2]
    assert "loss is +∞" in lost[3]
    assert "loss is −∞" in lost[4]
    below = marks(figure, "≤ 0")
    assert sorted(below) == [5, 6]
    assert "loss is -1.25e-07" in below[5]
    assert "step 5" in below[5]
    assert "mine" in below[5]
    assert list(figure.layout.yaxis2.ticktext) == ["not finite × 3", "≤ 0 × 2"]


def test_lanes_lie_below_the_curves_and_touch_nothing() -> None:
    layout = training_plots.loss_curves({"mine": run([0.5, NAN])}).layout
    assert 0 == layout.yaxis2.domain[0] < layout.yaxis2.domain[1] < layout.yaxis.domain[0]
    assert layout.xaxis.anchor == "y2"


def test_skipped_steps_are_marked_with_their_reason_in_every_curve() -> None:
    records = change(run([0.5] * 4), 3, applied=False, reason="NaN in the gradient")
    for figure in (
        training_plots.loss_curves({"mine": records}),
        training_plots.gradient_norms(records),
    ):
        assert list(marks(figure, "skipped")) == [3]
        assert "NaN in the gradient" in marks(figure, "skipped")[3]


def test_evaluations_that_no_axis_shows_are_marked() -> None:
    figure = training_plots.loss_curves({"mine": run([0.5] * 4, validation=NAN, train_eval=-2e-7)})
    assert "validation is NaN" in marks(figure, "not finite")[4]
    assert "eval, same data is -2e-07" in marks(figure, "≤ 0")[4]


def test_gradient_lanes() -> None:
    gone = change(run([0.5] * 4), 2, grad_norm={"backbone": INF, "head": 0.0})
    norms = training_plots.gradient_norms(gone)
    assert "backbone" in marks(norms, "not finite")[2]
    assert "+∞" in marks(norms, "not finite")[2]
    assert "head" in marks(norms, "≤ 0")[2]


def test_a_clean_run_has_no_lanes() -> None:
    figure = training_plots.loss_curves({"mine": run([0.5] * 8)})
    assert all(t.yaxis != "y2" for t in figure.data)
    assert figure.layout.yaxis.domain is None


def test_two_runs_are_marked_apart_on_the_same_step() -> None:
    figure = training_plots.loss_curves({"one": run([NAN, 0.5]), "two": run([NAN, 0.5])})
    one, two = (t for t in figure.data if t.yaxis == "y2")
    assert one.x[0] == two.x[0]
    assert one.y[0] != two.y[0]
    assert one.marker.color != two.marker.color
    assert -0.5 < one.y[0] < 0.5
    assert -0.5 < two.y[0] < 0.5


def test_thinned_marks_say_so_and_the_lane_counts_them_all() -> None:
    figure = training_plots.loss_curves({"mine": run([NAN] * 1500)})
    assert 300 <= len(marks(figure, "not finite")) <= curves.MARKS
    assert "every 3th of 1500" in marks(figure, "not finite")[1]
    assert "not finite × 1500" in figure.layout.yaxis2.ticktext


def test_a_sample_between_two_gaps_is_drawn() -> None:
    assert "markers" in trace(training_plots.loss_curves({"mine": run([NAN, 0.5, NAN, 0.4])}), "each window").mode
    assert trace(training_plots.loss_curves({"mine": run([0.5, 0.4, 0.3])}), "each window").mode == "lines"
    assert "markers" in trace(training_plots.loss_curves({"mine": run([0.5])}), "each window").mode


# ------------------------------------------------------------------------------------------------------------- thinning


def test_long_curves_are_thinned_and_keep_their_spike() -> None:
    losses = [0.5 + 0.1 * math.sin(step) for step in range(6000)]
    losses[3456] = 40.0
    raw = trace(training_plots.loss_curves({"mine": run(losses, per_epoch=1000)}), "each window")
    assert len(raw.y) <= 2000
    assert raw.x[np.argmax(raw.y)] == 3457
    assert raw.customdata[np.argmax(raw.y)].tolist() == [4, 60 + 3457]


# ------------------------------------------------------------------------------------------------------------- pictures


def bars(figure: go.Figure) -> dict[str, list[int]]:
    return {t.name: list(t.y) for t in figure.data if t.type == "bar"}


def test_ledger_counts_per_epoch() -> None:
    ends = [
        end(1, 8, Counters(32, 32, 7, 1, 7)),
        end(2, 16, Counters(64, 60, 15, 1, 16)),
        end(3, 24, Counters(96, 61, 15, 9, 24)),
    ]
    figure = training_plots.epoch_counts(ends)
    assert bars(figure) == {
        "forwards": [32, 32, 32],
        "backwards": [32, 28, 1],
        "steps applied": [7, 8, 0],
        "scheduler ticks": [7, 9, 8],
        "steps skipped": [1, 0, 8],
    }
    left, right = (t for t in figure.data if t.name == "≠")
    assert list(left.x) == [2, 3]
    assert list(left.y) == [32, 32]
    assert list(right.x) == [2, 3]
    assert list(right.y) == [9, 8]
    assert [note.text for note in figure.layout.annotations] == [
        "forwards ≠ backwards<br>in 2 of 3 epochs",
        "steps applied ≠ scheduler ticks<br>in 2 of 3 epochs",
    ]
    # Both charts have the same epochs, and none that was not.
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range == (0.4, 3.6)


def test_ledger_of_a_sound_run_has_no_mismatch() -> None:
    figure = training_plots.epoch_counts(run([0.5] * 12))
    assert all(len(t.x) == 0 for t in figure.data if t.name == "≠")
    assert figure.layout.annotations[0].text == "forwards = backwards<br>in 3 of 3 epochs"


def test_ledger_does_not_invent_an_epoch_whose_start_is_unknown() -> None:
    resumed = [end(5, 40, Counters(160, 160, 40, 0, 40)), end(6, 48, Counters(192, 192, 48, 0, 48))]
    assert bars(training_plots.epoch_counts(resumed))["forwards"] == [32]
    assert list(training_plots.epoch_counts(resumed).data[0].x) == [6]


def test_ledger_without_epochs_claims_no_balance() -> None:
    assert {note.text for note in training_plots.epoch_counts([window(1, 1, 0.5)]).layout.annotations} == {
        "no epochs counted"
    }


def test_long_ledger_becomes_lines_with_the_same_numbers() -> None:
    figure = training_plots.epoch_counts(run([0.5] * 400))
    assert bars(figure) == {}
    assert list(trace(figure, "forwards").y) == [16] * 100


def test_ladder_places_and_marks_each_rung() -> None:
    checks = [
        check(name="a", value=1e-3, relation="<=", reference=1e-2),
        check(name="b", value=0.9, relation=">=", reference=0.5),
        check(name="c", value=3.0, relation="==", reference=4.0, passed=False),
        check(name="d", value=0.0, relation="==", reference=0.0),
        check(name="e", value=NAN, passed=False),
        check(name="f", value=-1e-7),
    ]
    figure = training_plots.ladder_figure(checks)
    passed, failed = trace(figure, "✓ passed"), trace(figure, "✗ failed")
    assert list(passed.y) == [0, 1, 3, 5]
    assert list(failed.y) == [2, 4]
    assert list(passed.x)[:3] == pytest.approx([0.1, 0.5 / 0.9, 1.0])
    assert failed.x[0] == pytest.approx(4 / 3)
    low, high = (10**edge for edge in figure.layout.xaxis.range)
    assert passed.x[3] == pytest.approx(low)
    assert failed.x[1] == pytest.approx(high)
    assert passed.marker.symbol != failed.marker.symbol
    assert passed.marker.color != failed.marker.color
    assert list(figure.layout.yaxis.ticktext) == ["✓ a", "✓ b", "✗ c", "✓ d", "✗ e", "✓ f"]
    texts = [note.text for note in figure.layout.annotations]
    assert "0.9 ≥ 0.5" in texts[1]
    assert "So." in texts[1]
    assert "NaN ≤ 0.01" in texts[4]


def test_ladder_takes_the_verdict_from_the_rung_and_not_from_the_numbers() -> None:
    assert list(
        trace(training_plots.ladder_figure([check(value=1e-3, reference=1e-2, passed=False)]), "✗ failed").y
    ) == [0]


def test_ladder_grows_with_its_sentences() -> None:
    short, long = training_plots.ladder_figure([check()]), training_plots.ladder_figure([check(sentence="word " * 100)])
    assert long.layout.height > short.layout.height + 80
    assert max(map(len, long.layout.annotations[0].text.split("<br>"))) <= 90


def test_ladder_refuses_an_unknown_relation() -> None:
    with pytest.raises(InputError, match="relation of 'check' is '<'"):
        training_plots.ladder_figure([check(relation="<")])


def test_matrix_prints_the_numbers_where_they_belong() -> None:
    cells = [cell("fp32", 8, 4.1e-7, 2e-8), cell("fp32", 2, 3e-7), cell("bf16", 2, 0.0), cell("bf16", 8, NAN, INF)]
    left, right = precision_plots.accumulation_table(cells).data
    assert (list(left.x), list(left.y)) == (["2", "8"], ["fp32", "bf16"])
    assert left.text.tolist() == [["3.0e-07", "4.1e-07"], ["0", ""]]
    expected = [[math.log10(3e-7), math.log10(4.1e-7)], [-17.0, NAN]]
    assert np.array_equal(left.z, expected, equal_nan=True)
    assert right.text[0, 1] == "2.0e-08"
    assert right.z[0, 1] == math.log10(2e-8)
    assert left.customdata[0, 0] == "seconds per step: 0.01<br>nmse: 0.2"


def test_matrix_and_ladder_take_the_cells_and_rungs_of_the_overfit_lab() -> None:
    measured = AccumulationCell("bf16", 4, 2e-2, 7e-4, 3e-2, 0.5, True)
    assert precision_plots.accumulation_table([measured]).data[0].text.tolist() == [["2.0e-02"]]
    judged = checks.CheckResult("twins", 0.0, "==", 0.0, True, "no scene occurs twice", 0.1)
    assert list(trace(training_plots.ladder_figure([judged]), "✓ passed").x) == [1.0]


def test_matrix_names_what_is_missing() -> None:
    figure = precision_plots.accumulation_table([cell("fp32", 1, 4e-7), cell("fp32", 2, NAN), cell("bf16", 2, INF)])
    notes = {(note.xref, note.x, note.y): note.text for note in figure.layout.annotations if note.xref != "paper"}
    left = {place[1:]: text for place, text in notes.items() if place[0] == "x"}
    assert left == {(1, 0): "NaN", (0, 1): "not run", (1, 1): "+∞"}
    assert {place[1:]: text for place, text in notes.items() if place[0] == "x2"} == {(0, 1): "not run"}


# --------------------------------------------------------------------------------------------------- everybody can read


def test_numbers_of_the_matrix_are_readable_on_every_cell() -> None:
    text = precision_plots.accumulation_table([cell("fp32", 1, 4e-7)]).data[0].textfont.color
    assert min(contrast(text, colour) for _, colour in precision_plots.ERRORS) >= 4.5


def test_runs_are_drawn_in_their_own_style() -> None:
    figure = training_plots.loss_curves({"one": run([0.5] * 4), "two": run([0.4] * 4)})
    one, two = (trace(figure, name, name).line for name in ("one", "two"))  # the medians, by their run in the legend
    raw = trace(figure, "each window", "two")
    assert (raw.line.color, raw.line.dash) == (two.color, "solid")
    assert raw.line.width < two.width
    assert one.color != two.color
    assert one.dash != two.dash
    ends = [trace(figure, "eval, same data", name).marker for name in ("one", "two")]
    assert ends[0].symbol != ends[1].symbol


def test_every_axis_names_its_quantity_and_unit() -> None:
    units = ("(dimensionless)", "(°)", "(count)", "(factor)", "(optimiser step)", "(number format)", "epoch")
    figures = every_figure()
    for name, figure in figures.items():
        titles = [axis.title.text for axis in figure.select_xaxes()] + [figure.layout.yaxis.title.text]
        if name != "ladder":
            assert all(title and any(unit in title for unit in units) for title in titles), (name, titles)
    ladder = figures["ladder"].layout
    assert "(dimensionless)" in ladder.xaxis.title.text
    assert len(ladder.yaxis.ticktext) == 2
    assert "(dimensionless)" in figures["accumulation table"].layout.coloraxis.colorbar.title.text


def test_every_figure_carries_the_template_and_no_colour_of_one_page() -> None:
    for name, figure in every_figure().items():
        assert figure.layout.template.layout.paper_bgcolor == style.PAGES["light"]["paper"], name
        assert (figure.layout.paper_bgcolor, figure.layout.font.color) == (None, None), name
        figure.update_layout(template=style.template("dark"))
        assert figure.layout.template.layout.font.color == style.PAGES["dark"]["text"], name


def test_the_template_is_not_a_global_default() -> None:
    before = (plotly.io.templates.default, list(plotly.io.templates))
    training_plots.loss_curves({"mine": run([0.5])})
    assert (plotly.io.templates.default, list(plotly.io.templates)) == before
    assert "rislab" not in plotly.io.templates


def test_legend_never_needs_to_scroll() -> None:
    figure = training_plots.loss_curves({str(n): run([0.5] * 8) for n in range(6)}, lines={"zero matrix": 1.0})
    rows = sum(t.showlegend is not False for t in figure.data)
    groups = len({t.legendgroup for t in figure.data})
    assert figure.layout.height - 124 >= 20 * rows + 36 * groups


def test_figures_do_not_change_their_input_and_repeat_exactly() -> None:
    records = run([0.5, NAN, 0.3, 0.2])
    before = [repr(record) for record in records]
    assert training_plots.loss_curves({"a": records}).to_json() == training_plots.loss_curves({"a": records}).to_json()
    assert [repr(record) for record in records] == before


@pytest.mark.parametrize("count", [0, 1, 8, 200])
@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_the_running_median_is_that_of_the_finite_values(count: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(count)
    values[rng.random(count) < 0.4], values[3:7], values[40:60] = np.inf, np.nan, np.nan
    at = np.arange(0, count, 3)
    finite = np.where(np.isfinite(values), values, np.nan)
    expected = [np.nanmedian(finite[max(0, place - 8) : place + 1]) for place in at]
    np.testing.assert_array_equal(curves.running_median(values, 9, at), expected)
