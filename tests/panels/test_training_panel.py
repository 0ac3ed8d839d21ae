"""Panels without a browser: threads, exceptions, stopping, and the same cells headless."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rislab
from rislab import panels
from rislab.errors import InputError
from rislab.panels import training_view
from rislab.panels.plot_widget import PlotWidget
from rislab.panels.run import Run, RunHistory, folders
from rislab.panels.training_panel import OverfitPanel
from rislab.panels.training_plot import ROOM, fed_strip, figure_dict, side_charts_dict, table
from rislab.panels.training_view import CORRECT, SLOW_SECONDS
from rislab.plots.curves import LABEL_ROWS
from rislab.plots.style import VERMILLION, log_ticks
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training import run_folder
from rislab.training.loop import fit
from rislab.training.records import Record, epoch_records, equal_but_time, step_records

CONFIG = OverfitConfig(scenes=64, micro_batch=16, epochs=4)


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")


def straight() -> list[Record]:
    return list(fit(CONFIG.model(), CONFIG.data(), CONFIG.training()))


async def awaited(panel: OverfitPanel) -> list[Record]:
    return await panel


@pytest.mark.slow
@pytest.mark.parametrize("live", [True, False])
def test_a_panel_trains_as_the_plain_loop_does(live: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RISLAB_LIVE", "1" if live else "0")
    panel = panels.overfit(CONFIG)
    records = asyncio.run(awaited(panel))
    expected = straight()
    assert len(records) == len(expected)
    assert all(equal_but_time(one, other) for one, other in zip(records, expected, strict=True))
    assert (panel.widget is not None) is live
    assert "text/plain" in panel._repr_mimebundle_()
    trained = panel.model.state_dict().values()
    model = CONFIG.model()
    list(fit(model, CONFIG.data(), CONFIG.training()))
    assert all(torch.equal(one, other) for one, other in zip(trained, model.state_dict().values(), strict=True))


def button(panel: OverfitPanel, name: str) -> Any:
    return knob(panel, name)


def knob(panel: OverfitPanel, name: str) -> Any:
    return next(one for one in parts(panel.widget) if getattr(one, "description", "") == name)


def parts(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def note(panel: OverfitPanel) -> str:
    return str(panel.alarm.value)


def line(panel: OverfitPanel) -> str:
    """The texts of the panel, among them the line that says its state."""
    return " ".join(str(getattr(one, "value", "")) for one in parts(panel.widget))


def plots_of(panel: OverfitPanel) -> list[PlotWidget]:
    return [one for one in parts(panel.widget) if isinstance(one, PlotWidget)]


def plot_of(panel: OverfitPanel) -> PlotWidget:
    return plots_of(panel)[0]


def colours(panel: OverfitPanel) -> dict[str, Any]:
    """Of each run on the figure, by its label."""
    traces = plot_of(panel).figure["data"]
    return {trace["name"]: trace["line"]["color"] for trace in traces if trace["name"].startswith("run ")}


def enabled(panel: OverfitPanel) -> set[str]:
    return {one.description for one in parts(panel.widget) if type(one).__name__ == "Button" and not one.disabled}


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Live runs keep their folders under the current one.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RISLAB_LIVE", "1")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


ENDLESS = OverfitConfig(scenes=64, micro_batch=16, epochs=10_000)


def test_the_figure_holds_the_records_and_the_title_the_state(live: None) -> None:
    panel = panels.overfit(CONFIG)
    records = asyncio.run(awaited(panel))
    drawn = figure_dict(panel.runs, panel.title())
    sides = side_charts_dict(panel.runs)["data"]
    by_name = {trace["name"]: trace for trace in [*drawn["data"], *sides]}
    assert list(by_name["run 1"]["y"]) == [record.loss for record in step_records(records)]
    assert list(by_name["eval, same data"]["y"]) == [record.train_eval for record in epoch_records(records)]
    assert list(by_name["backbone"]["y"]) == [record.learning_rate["backbone"] for record in step_records(records)]
    assert list(by_name["forwards"]["y"]) == [record.counters.forwards for record in epoch_records(records)]
    assert by_name["zero matrix = 1"]["y"] == [1.0, 1.0]
    assert drawn["layout"]["title"]["text"].startswith("finished")
    assert plot_of(panel).figure["layout"]["title"]["text"].startswith("finished")
    assert "finished" in table(panel.runs)
    assert panel.drawing_error is None


def test_the_stop_button_ends_the_run_within_a_window(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    until(lambda: len(panel.records()) >= 3)
    button(panel, "Stop").click()
    records = asyncio.run(awaited(panel))
    assert 3 <= len(records) < 40_000
    assert panel.state == "stopped"


@pytest.mark.parametrize("running", [True, False])
def test_stop_does_not_call_a_finished_run_stopped(live: None, running: bool) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, epochs=1))
    if running:  # pressed in the moment in which the last record comes
        until(lambda: panel.runs[0].history.last is not None)
    else:
        asyncio.run(awaited(panel))
    button(panel, "Stop").click()
    asyncio.run(awaited(panel))
    assert panel.state == "finished" and panel.title().startswith("finished")


@pytest.mark.slow
def test_pause_step_and_start_go_window_by_window(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    until(lambda: len(panel.records()) >= 3)
    button(panel, "Pause").click()
    until(lambda: panel.state == "paused")
    time.sleep(0.2)
    before = len(step_records(panel.records()))
    time.sleep(0.2)
    assert len(step_records(panel.records())) == before
    for more in (1, 2, 3):
        button(panel, "Step").click()
        until(lambda more=more: len(step_records(panel.records())) == before + more)  # type: ignore[misc]
        time.sleep(0.1)
        assert len(step_records(panel.records())) == before + more
    button(panel, "Start").click()
    until(lambda: len(step_records(panel.records())) > before + 5)
    assert len(panel.runs) == 1
    button(panel, "Stop").click()
    records = asyncio.run(awaited(panel))
    # Pausing changes nothing: the records are those of a run that was never paused.
    config = OverfitConfig(scenes=64, micro_batch=16, epochs=10_000)
    stream = fit(config.model(), config.data(), config.training())
    expected = [record for record, _ in zip(stream, records, strict=False)]
    stream.close()
    assert all(equal_but_time(one, other) for one, other in zip(records, expected, strict=True))


def test_stop_ends_a_paused_run(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    button(panel, "Pause").click()
    until(lambda: panel.state == "paused")
    button(panel, "Stop").click()
    asyncio.run(awaited(panel))
    assert panel.state == "stopped"


def test_buttons_that_could_do_nothing_cannot_be_pressed_and_say_why(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    # While a run goes on its thread may be drawing, and draws once more for a click.
    until(lambda: enabled(panel) == {"Pause", "Step", "Stop", "Reset", "Remove"})
    button(panel, "Pause").click()
    until(lambda: enabled(panel) == {"Start", "Step", "Stop", "Reset", "Remove"})
    button(panel, "Stop").click()
    panel.settle()
    assert enabled(panel) == {"Start", "Reset", "Remove", "Go on"}
    assert button(panel, "Pause").tooltip == "Wait after the window in progress · now: stopped"
    button(panel, "Reset").click()
    assert enabled(panel) == {"Start", "Load"}
    assert button(panel, "Stop").tooltip.endswith(" · now: reset")
    button(panel, "Load").click()
    assert enabled(panel) == {"Start", "Reset", "Remove", "Go on"}
    button(panel, "Go on").click()
    until(lambda: enabled(panel) == {"Pause", "Step", "Stop", "Reset", "Remove"})
    assert button(panel, "Pause").tooltip == "Wait after the window in progress"
    button(panel, "Stop").click()
    panel.settle()


def test_a_second_start_does_nothing_while_a_run_is_on(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    button(panel, "Start").click()
    assert len(panel.runs) == 1
    button(panel, "Stop").click()
    asyncio.run(awaited(panel))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("precision", "precision", "bf16"),
        ("accumulation", "accumulation_steps", 2),
        ("micro-batch", "micro_batch", 8),
        ("clip", "clip_norm", 0.5),
        ("curriculum", "curriculum", "three-phase"),
        ("seed", "seed", 3),
    ],
)
def test_what_code_changes_is_what_the_controls_show(live: None, name: str, field: str, value: Any) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, epochs=1))
    asyncio.run(awaited(panel))
    assert panel.change(**{field: value})
    assert knob(panel, name).value == value == getattr(panel.config, field)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "field", "label"),
    [
        ("accumulation", 4, "accumulation_steps", "4 × 4"),
        ("micro-batch", 8, "micro_batch", "1 × 8"),
        ("precision", "fp64", "precision", "fp64"),
        ("lr", 0.01, "lr", "lr 0.01"),
        ("clip", 0.5, "clip_norm", "clip norm 0.5"),
        ("curriculum", "three-phase", "curriculum", "three-phase"),
        ("β", 0.3, "blend", "blend 0.3"),
        ("epochs", 2, "epochs", "epochs 2"),
        ("fresh scenes", 32, "validation", "validation 32"),
        ("seed", 3, "seed", "seed 3"),
    ],
)
def test_every_knob_sets_the_next_run_and_runs_stay_for_comparison(
    live: None, name: str, value: Any, field: str, label: str
) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, epochs=1))
    asyncio.run(awaited(panel))
    knob(panel, name).value = value
    button(panel, "Start").click()
    records = asyncio.run(awaited(panel))
    assert len(panel.runs) == 2
    assert getattr(panel.runs[1].config, field) == value
    config = panel.config
    expected = list(fit(config.model(), config.data(), config.training(), validation=config.validation_data()))
    assert all(equal_but_time(one, other) for one, other in zip(records, expected, strict=True))
    labels = [trace["name"] for trace in figure_dict(panel.runs, panel.title())["data"]]
    assert "run 1" in labels and f"run 2: {label}" in labels
    knob(panel, "run").index = 0
    button(panel, "Remove").click()
    assert [run.name for run in panel.runs] == ["run 2"]


def test_reset_takes_everything_off_and_start_begins_anew(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    until(lambda: len(panel.records()) >= 3)
    button(panel, "Reset").click()
    assert panel.runs == [] and panel.state == "reset" and panel.records() == []
    # Axes of a figure without a run have readable ticks, and it says what to do.
    layout = plot_of(panel).figure["layout"]
    assert layout["xaxis"]["range"][1] >= 1 and layout["annotations"][-1]["text"] == "no run yet: press Start"
    assert all(len(trace["x"]) == 0 or trace["name"] == "exact share" for trace in plot_of(panel).figure["data"])
    knob(panel, "epochs").value = 1
    button(panel, "Start").click()
    assert len(epoch_records(asyncio.run(awaited(panel)))) == 1
    assert panel.runs[0].name == "run 2"


def test_a_configuration_that_cannot_be_is_explained_and_loses_nothing(live: None) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, epochs=1))
    asyncio.run(awaited(panel))
    assert panel.change(micro_batch=1000) is False
    assert "micro_batch is 1000" in note(panel)
    assert panel.config.micro_batch == CONFIG.micro_batch
    assert panel.change(seed=1) and note(panel) == ""
    # Typed, it is refused beside its box.
    knob(panel, "micro-batch").box.value = 1000
    assert knob(panel, "micro-batch").problem == "micro_batch is 1000; allowed: a whole number in [1, 64]"
    knob(panel, "micro-batch").box.value = -1
    assert knob(panel, "micro-batch").problem == "micro_batch is -1; allowed: a whole number in [1, 64]"
    assert panel.config.micro_batch == CONFIG.micro_batch and note(panel) == ""
    assert panel.change(seed=2)
    assert note(panel) == ""


def test_losses_that_are_none_and_skipped_steps_are_marked() -> None:
    curves = RunHistory()
    windows = step_records(straight())
    for record in (
        dataclasses.replace(windows[0], loss=math.nan),
        dataclasses.replace(windows[1], applied=False, reason="gradient is not finite"),
        *windows[2:4],
    ):
        curves.add(record)
    assert list(curves.column("step")) == [window.step for window in windows[:4]]
    assert curves.strange == [(1, "loss is nan")]
    assert curves.skipped == [(2, "gradient is not finite")]
    run = Run("run 1", CONFIG)
    run.history = curves
    by_name = {trace["name"]: trace for trace in figure_dict([run], "")["data"]}
    assert by_name["skipped × 1"]["x"] == [2] and "not finite" in by_name["skipped × 1"]["hovertext"][0]
    assert by_name["not a loss × 1"]["x"] == [1] and "nan" in by_name["not a loss × 1"]["hovertext"][0]


def test_thousands_of_marks_are_thinned_and_counted() -> None:
    run = Run("run 1", CONFIG)
    window = step_records(straight())[0]
    for step in range(1, 3001):
        run.history.add(dataclasses.replace(window, step=step, applied=False, reason="NaN"))
    trace = next(trace for trace in figure_dict([run], "")["data"] if trace["name"] == "skipped × 3000")
    assert trace["x"][0] == 1 and len(trace["x"]) == 500


def test_curves_can_be_read_while_they_grow() -> None:
    curves, windows = RunHistory(), step_records(straight())
    reading = True
    lengths: list[int] = []

    def read() -> None:
        while reading:
            lengths.append(len(curves.column("loss")))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(500):
        for window in windows:
            curves.add(window)
    reading = False
    reader.join()
    assert lengths == sorted(lengths)
    assert list(curves.column("loss")) == [window.loss for window in windows] * 500


@pytest.mark.slow
def test_the_axis_turns_linear_and_back(live: None) -> None:
    panel = panels.overfit(CONFIG)
    asyncio.run(awaited(panel))
    assert plot_of(panel).figure["layout"]["yaxis"]["type"] == "log"
    knob(panel, "log axis").value = False
    assert plot_of(panel).figure["layout"]["yaxis"]["type"] == "linear"


def test_large_losses_on_a_linear_axis_have_room_beside_its_title(headless: None) -> None:
    window = step_records(straight())[0]
    margins = []
    for loss in (0.5, 8e12):
        run = Run("run 1", CONFIG)
        run.history.replace([dataclasses.replace(window, step=step, loss=loss) for step in range(1, 9)])
        layout = figure_dict([run], "", log=False)["layout"]
        margins.append(layout["margin"]["l"])
        assert layout["yaxis"]["exponentformat"] == "e"
    assert margins == [64, 84]


def test_fresh_scenes_are_a_curve_and_a_column(headless: None) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, validation=16))
    records = asyncio.run(awaited(panel))
    by_name = {trace["name"]: trace for trace in figure_dict(panel.runs, "")["data"]}
    assert list(by_name["validation"]["y"]) == [record.validation for record in epoch_records(records)]
    assert f"{epoch_records(records)[-1].validation:.3g}" in table(panel.runs)
    ends = by_name["ends of epochs"]["x"]
    assert ends[::3] == ends[1::3] == [record.step for record in epoch_records(records)]


@pytest.mark.slow
def test_every_epoch_is_told_and_telling_changes_nothing(headless: None) -> None:
    told: list[int] = []

    def look(model: torch.nn.Module, epoch: int) -> None:
        told.append(epoch)
        model.predict(CONFIG.data()[:1])  # type: ignore[operator]

    panel = panels.overfit(CONFIG, on_epoch=look)
    records = asyncio.run(awaited(panel))
    assert told == [0, 1, 2, 3, 4]
    assert all(equal_but_time(one, other) for one, other in zip(records, straight(), strict=True))


@pytest.mark.slow
def test_a_stopped_run_goes_on_in_its_folder_as_if_never_stopped(live: None) -> None:
    config = dataclasses.replace(CONFIG, epochs=40)
    panel = panels.overfit(config)
    until(lambda: panel.runs[0].history.windows >= 10)
    button(panel, "Stop").click()
    stopped = asyncio.run(awaited(panel))
    assert len(step_records(stopped)) < 160
    # Another kernel would find the same folder.
    later = panels.overfit(CONFIG)
    asyncio.run(awaited(later))
    first = panel.runs[0].folder
    assert first is not None
    assert knob(later, "folder").options == (first.name,)
    button(later, "Load").click()
    assert knob(later, "folder").options == ()
    assert later.load(first) is False and "on the plot already" in note(later)
    button(later, "Load").click()  # nothing is left to load
    assert len(later.runs) == 2 and later.runs[-1].state == "stopped"
    assert later.runs[-1].config == config
    assert later.runs[-1].history.windows == len(step_records(stopped))
    knob(later, "run").index = 1
    button(later, "Go on").click()
    records = asyncio.run(awaited(later))
    expected = list(fit(config.model(), config.data(), config.training()))
    assert all(equal_but_time(one, other) for one, other in zip(records, expected, strict=True))
    assert list(later.runs[-1].history.column("loss")) == [record.loss for record in step_records(expected)]
    button(later, "Go on").click()
    assert "has done its 40 epochs" in note(later)


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_a_killed_kernel_leaves_a_run_that_goes_on(live: None) -> None:
    script = (
        "import time, rislab\n"
        "config = rislab.sanity.OverfitConfig(scenes=64, micro_batch=16, epochs=1000)\n"
        "panel = rislab.panels.overfit(config)\n"
        "while panel.runs[0].history.windows < 20: time.sleep(0.01)\n"
        "print('on', flush=True)\ntime.sleep(600)\n"
    )
    kernel = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None and kernel.stdout.readline() == "on\n"
    kernel.kill()
    kernel.wait()
    (name,) = folders(Path("runs"))
    run = Run.load("run 1", Path("runs") / name)
    assert run.state == "stopped" and run.history.windows >= 20
    run.go_on()
    until(lambda: run.history.windows >= 30 or not run.task.running)
    run.task.stop()
    until(lambda: not run.task.running)
    stream = fit(run.config.model(), run.config.data(), run.config.training())
    records = run.records()
    expected = [record for record, _ in zip(stream, records, strict=False)]
    stream.close()
    assert len(step_records(records)) >= 30
    assert all(equal_but_time(one, other) for one, other in zip(records, expected, strict=True))


@pytest.mark.slow
def test_two_panels_keep_their_runs_apart(live: None) -> None:
    one, other = panels.overfit(CONFIG), panels.overfit(CONFIG)

    async def both() -> list[list[Record]]:
        return list(await asyncio.gather(awaited(one), awaited(other)))

    for records in asyncio.run(both()):
        assert all(equal_but_time(mine, plain) for mine, plain in zip(records, straight(), strict=True))
    assert one.runs[0].folder != other.runs[0].folder
    assert len(folders(Path("runs"))) == 2


@pytest.mark.slow
def test_a_folder_of_another_kind_is_refused_and_the_panel_goes_on(live: None, tmp_path: Path) -> None:
    panel = panels.overfit(CONFIG)
    asyncio.run(awaited(panel))
    data = CONFIG.data()
    list(run_folder.train(tmp_path / "sgd", CONFIG.model(), data, rislab.TrainConfig(epochs=1, optimiser="sgd")))
    assert panel.load(tmp_path / "sgd") is False
    assert "holds another kind of run" in note(panel)
    assert panel.load(tmp_path / "nowhere") is False
    assert "could not be read" in note(panel)
    (tmp_path / "file").write_text("")
    panel.folder = tmp_path / "file"
    panel.start()
    assert "cannot be made" in note(panel)
    assert len(panel.runs) == 1 and panel.state == "finished"


def test_runs_in_memory_cannot_go_on_after_a_stop(headless: None) -> None:
    panel = panels.overfit(ENDLESS)
    until(lambda: panel.runs[0].history.windows >= 3)
    assert panel.go_on(0) is False and "allowed: one run at a time" in panel.input_error
    panel.stop()
    asyncio.run(awaited(panel))
    assert panel.go_on(0) is False
    assert "no run folder" in panel.input_error


@pytest.mark.slow
def test_the_effective_batch_is_held_unless_it_is_switched_off(live: None) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, epochs=1))
    asyncio.run(awaited(panel))
    knob(panel, "accumulation").value = 4
    assert (panel.config.accumulation_steps, panel.config.micro_batch) == (4, 4)
    assert panel.batch_line() == "effective batch 16 = 4 × 4 scenes, 4 steps an epoch"
    assert any(panel.batch_line() in str(getattr(one, "value", "")) for one in parts(panel.widget))
    assert knob(panel, "micro-batch").value == 4
    assert knob(panel, "accumulation").options == (1, 2, 4, 8, 16)
    assert panel.change(accumulation_steps=3) is False
    assert "allowed: a divisor of 16, the effective batch that is held" in note(panel)
    knob(panel, "hold the batch").value = False
    knob(panel, "accumulation").value = 1
    assert (panel.config.accumulation_steps, panel.config.micro_batch) == (1, 4)


@pytest.mark.slow
def test_a_fault_turns_the_curve_the_strip_and_the_verdict_and_leaves_no_folder(live: None) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, micro_batch=8, accumulation_steps=2))
    asyncio.run(awaited(panel))
    assert panel.verdict().startswith("✓ nothing wrong in 16 steps, ") and panel.findings() == []
    assert {weight for step in panel.runs[0].checkup.fed for weight in step.weights} == {1.0}
    knob(panel, "break").value = "never divided"
    texts = [str(getattr(one, "value", "")) for one in parts(panel.widget)]
    assert any("weight = 1.0" in text for text in texts)
    button(panel, "Start").click()
    asyncio.run(awaited(panel))
    assert panel.title() == "finished: classroom, fp32, never divided, step 16"
    assert panel.verdict().startswith("✗ never divided")
    (shown,) = [text for one in parts(panel.widget) if "✗ never divided" in (text := str(getattr(one, "value", "")))]
    assert "<i>Fix:</i> " in shown and not re.search(r"<i>Fix:</i> *<", shown)
    fed, _ = fed_strip(panel.runs[1])
    assert np.allclose(fed[0]["y"], 2.0) and set(fed[0]["marker"]["color"]) == {VERMILLION}
    names = [trace["name"] for trace in plot_of(panel).figure["data"]]
    assert "run 2: never divided" in names
    assert len(folders(Path("runs"))) == 1
    # The verdict is that of its run, the diff that of the next one, once another fault is chosen.
    (shown,) = [text for one in parts(panel.widget) if "edit of " in (text := str(getattr(one, "value", "")))]
    assert "never divided: edit of run 2" in shown
    knob(panel, "break").value = "divided twice"
    (shown,) = [text for one in parts(panel.widget) if "edit of " in (text := str(getattr(one, "value", "")))]
    assert "divided twice: edit of the next run" in shown
    texts = [str(getattr(one, "value", "")) for one in parts(panel.widget)]
    assert any("checkup of run 2: ✗ never divided" in text for text in texts)
    # The correct loop again: the fault was in a copy of the package.
    knob(panel, "break").value = CORRECT
    button(panel, "Start").click()
    asyncio.run(awaited(panel))
    assert panel.verdict().startswith("✓")


@pytest.mark.slow
def test_lost_micro_batches_are_marked_in_the_strip(headless: None) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, micro_batch=8, accumulation_steps=2, epochs=1))
    panel.break_with("zeroed per micro-batch")
    asyncio.run(awaited(panel))
    panel.start()
    asyncio.run(awaited(panel))
    (bars, lost, _), ticks = fed_strip(panel.runs[1])
    assert bars["y"].tolist() == pytest.approx([0.0, 1.0] * 4, abs=1e-3) and len(lost["x"]) == 4
    assert ticks["ticktext"] == ["1", "2", "3", "4"]


@pytest.mark.slow
def test_two_runs_are_compared_by_one_click(live: None) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, epochs=1))
    for seed in (0, 1, 2):
        panel.change(seed=seed)
        panel.start()
        asyncio.run(awaited(panel))
    before = colours(panel)
    knob(panel, "compare").value = True
    names = colours(panel)
    assert {"run 2", "run 3: seed 2"} <= names.keys() and "run 1" not in names
    # Alone, each run has the colour and the dash that it had among others.
    assert (names["run 2"], names["run 3: seed 2"]) == (before["run 2: seed 1"], before["run 3: seed 2"])
    assert len(set(before.values())) == 3
    knob(panel, "run").index = 0
    assert "run 3 / run 1" in table([panel.runs[0], panel.runs[2]])
    # Of a run that is further on, what it was after as many epochs.
    ahead = panel.runs[0].history
    first = epoch_records(panel.runs[0].records())[0]
    ahead.add(dataclasses.replace(first, epoch=2, train_eval=1e-3 * first.train_eval))
    ratio = epoch_records(panel.runs[2].records())[0].train_eval / first.train_eval
    compared = table([panel.runs[0], panel.runs[2]])
    assert "after 1 epoch" in compared and f"× {ratio:.3g}" in compared
    assert "run 1" in {trace["name"] for trace in plot_of(panel).figure["data"]}


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["samples", "epochs", "steps"])
def test_the_axis_across_counts_samples_epochs_or_steps(live: None, unit: str) -> None:
    panel = panels.overfit(CONFIG)
    asyncio.run(awaited(panel))
    knob(panel, "x axis").value = unit
    figure = plot_of(panel).figure
    curve = next(trace for trace in figure["data"] if trace["name"] == "run 1")
    assert curve["x"][-1] == {"samples": 256, "epochs": 4, "steps": 16}[unit]
    ends = next(trace for trace in figure["data"] if trace["name"] == "ends of epochs")["x"]
    assert len(ends) == 12 and ends[0] == curve["x"][3]
    # A run that has ended needs no room to go on.
    assert figure["layout"]["xaxis"]["range"] == [0, curve["x"][-1]]


def test_curves_are_labelled_at_their_ends_and_the_legend_has_six_entries_at_most(headless: None) -> None:
    window = step_records(straight())[0]
    runs = []
    for number in range(9):  # all end in one point
        run = Run(f"run {number + 1}", dataclasses.replace(CONFIG, seed=number))
        run.history.replace([dataclasses.replace(window, step=step, loss=0.5) for step in range(1, 9)])
        runs.append(run)
    figure = figure_dict(runs, "")
    labels = next(trace for trace in figure["data"] if trace["name"] == "labels")
    reach = figure["layout"]["xaxis"]["range"][1]
    assert reach < labels["x"][0] < 1.03 * reach and figure["layout"]["meta"] == {"room": ROOM}
    low, high = figure["layout"]["yaxis"]["range"]
    rows = sorted((np.log10(labels["y"]) - low) / (high - low) * LABEL_ROWS)
    assert len(rows) == 9 and min(np.diff(rows)) >= 0.999  # six runs and three levels
    shown = [trace for trace in figure["data"] if trace.get("showlegend", True)]
    assert 1 <= len(shown) <= 6
    layout = figure["layout"]  # the legend ends above the axes
    assert layout["legend"]["yref"] == "container"
    assert 0 < (1 - layout["legend"]["y"]) * layout["height"] < layout["margin"]["t"]


def test_side_charts_without_a_run_have_axes() -> None:
    empty = side_charts_dict(())
    assert {trace["yaxis"] for trace in empty["data"]} == {"y", "y2", "y3", "y4"}
    assert all(empty["layout"][f"yaxis{number}"]["range"] == [0, 1] for number in ("", 2, 3, 4))
    assert "log" not in str(empty["layout"]["yaxis"])


def test_the_titles_of_the_side_charts_name_their_lines(headless: None) -> None:
    panel = panels.overfit(CONFIG)
    asyncio.run(awaited(panel))
    titles = [re.sub("<.*?>", "", note["text"]) for note in side_charts_dict(panel.runs)["layout"]["annotations"]]
    assert titles[:3] == ["gradient norm: ■ backbone ■ head", "learning rate: ■ backbone ■ head", "loss scale"]
    assert titles[3] == "counts: ■ forwards ■ backwards■ applied ■ ticks ■ skipped"


def test_ticks_of_a_logarithmic_axis_have_room() -> None:
    assert log_ticks(-1.0, 0.1)["ticktext"][:4] == ["0.1", "0.2", "0.5", "1"]
    assert len(log_ticks(-32.0, 0.0)["tickvals"]) <= 7


def test_a_low_axis_has_at_most_three_ticks_within_its_range(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    until(lambda: panel.runs[0].history.windows > 3)
    panel.stop()
    panel.settle()
    axis = side_charts_dict(panel.runs)["layout"]["yaxis"]
    assert 2 <= len(axis["tickvals"]) == len(axis["ticktext"]) <= 3
    assert all(10 ** axis["range"][0] <= value <= 10 ** axis["range"][1] for value in axis["tickvals"])


def test_the_side_charts_are_redrawn_now_and_then_and_at_the_end(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(training_view, "time", SimpleNamespace(monotonic=lambda: now[0]))
    panel = panels.overfit(ENDLESS)
    losses, sides = plots_of(panel)
    drawn: list[int] = []
    sides.state.observe(lambda change: drawn.append(change["new"]["number"]), "patch")

    def answered(windows: int) -> bool:
        for plot in (losses, sides):
            plot.state.set_state({"drawn": plot.figure["number"], "took": 1})
        return panel.runs[0].history.windows > windows and losses.figure["number"] > windows / 10

    until(lambda: answered(20))
    began = len(drawn)
    until(lambda: answered(60))
    assert len(drawn) == began <= 2
    now[0] += SLOW_SECONDS
    until(lambda: answered(100))
    assert len(drawn) == began + 1
    panel.stop()
    panel.settle()
    assert sides.figure["data"][0]["x"][-1] == panel.runs[0].history.windows


def test_stop_is_answered_in_text_before_the_figure(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    plot_of(panel).state.drawn = 0  # a page that does not answer
    button(panel, "Stop").click()
    panel.settle()
    assert "<b>stopped</b>" in line(panel)


def test_after_stop_the_next_figure_says_that_it_has_stopped(live: None) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def work(model: Any, epoch: int) -> None:
        at_work.set()
        assert go_on.wait(300)

    panel = panels.overfit(ENDLESS, on_epoch=work)
    plot = plot_of(panel)
    assert at_work.wait(300)
    plot.update(plot.figure)  # a page that has drawn all there is, and has rested
    plot.flush()
    plot.state.set_state({"drawn": plot.figure["number"], "took": 1})
    time.sleep(0.01)
    number = plot.figure["number"]
    button(panel, "Stop").click()
    assert plot.figure["number"] == number
    assert "<b>stopping</b>" in line(panel)
    go_on.set()
    panel.settle()
    assert "<b>stopped</b>" in line(panel)
    assert plot.figure["number"] == number + 1
    assert plot.figure["layout"]["title"]["text"].startswith("stopped")


def test_a_drawing_fault_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*unused: Any, **options: Any) -> Any:
        raise RuntimeError("no ink")

    panel = OverfitPanel(dataclasses.replace(CONFIG, epochs=10_000), live=True)
    monkeypatch.setattr(training_view, "figure_dict", broken)
    panel.stop()
    asyncio.run(awaited(panel))
    assert "no ink" in note(panel)
    assert panel.problem == "the figure could not be drawn: RuntimeError: no ink"


def test_cancelling_the_wait_stops_the_run(headless: None) -> None:
    panel = panels.overfit(OverfitConfig(scenes=64, epochs=10_000))

    async def cancelled() -> None:
        task = asyncio.ensure_future(panel._wait())
        await asyncio.sleep(0.3)
        task.cancel()
        await task

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(cancelled())
    assert panel.state == "stopped"


@pytest.mark.slow
def test_missing_widgets_are_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    monkeypatch.setattr(panels.api, "widgets", lambda: "no: anywidget not installed; figures are static")
    panel = panels.overfit(CONFIG)
    assert panel.widget is None
    assert len(asyncio.run(awaited(panel))) == 20
    assert capsys.readouterr().out == "live panels: no: anywidget not installed; figures are static\n"


def test_bad_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="config is a dict"):
        panels.overfit({"preset": "full"})  # type: ignore[arg-type]


def test_a_page_that_is_loaded_again_finds_its_runs(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest goes on, unless somebody stopped it; its configuration is that of the knobs."""
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    monkeypatch.setenv("QUERY_STRING", f"page={'a' * 32}")
    first = panels.overfit(ENDLESS)
    until(lambda: len(first.records()) >= 3)
    first.runs[0].task.stop()  # as it ends with its kernel
    first.settle()
    taken, folder = len(first.records()), first.runs[0].folder
    assert folder is not None and folder.parent == Path("runs") / ("a" * 32)
    again = panels.overfit(CONFIG)
    assert again.config == ENDLESS and [run.folder for run in again.runs] == [folder]
    until(lambda: len(again.records()) > taken)
    button(again, "Stop").click()
    again.settle()
    stopped = panels.overfit(CONFIG)
    assert stopped.state == "stopped" and not stopped.input_error
    assert stopped.go_on(0)
    stopped.runs[0].task.stop()
    stopped.settle()
    other = panels.overfit(CONFIG)
    until(lambda: other.state == "running")
    button(other, "Pause").click()
    other.runs[0].task.stop()
    other.settle()
    assert panels.overfit(CONFIG).state == "stopped"
    monkeypatch.setenv("QUERY_STRING", f"page={'b' * 32}")
    assert asyncio.run(awaited(panels.overfit(CONFIG))) and len(folders(Path("runs") / ("b" * 32))) == 1
