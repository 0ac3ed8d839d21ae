"""Panels without a browser: threads, exceptions, stopping, and the same cells headless."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from rislab import overfit, panels
from rislab.errors import InputError
from rislab.live import Plot
from rislab.records import Record, epochs, same, steps
from rislab.runner import Runner
from rislab.training import fit
from rislab.training_panel import Curves, drawing, table

CONFIG = overfit.OverfitConfig(scenes=64, micro_batch=16, epochs=4)


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")


def straight() -> list[Record]:
    return list(fit(CONFIG.model(), CONFIG.data(), CONFIG.training()))


async def awaited(panel: panels.OverfitPanel) -> list[Record]:
    return await panel


@pytest.mark.parametrize("live", [True, False])
def test_a_panel_trains_as_the_plain_loop_does(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1" if live else "0")
    panel = panels.overfit(CONFIG)
    records = asyncio.run(awaited(panel))
    expected = straight()
    assert len(records) == len(expected)
    assert all(same(one, other) for one, other in zip(records, expected, strict=True))
    assert (panel.widget is not None) is live
    assert "text/plain" in panel._repr_mimebundle_()
    trained = panel.model.state_dict().values()
    model = CONFIG.model()
    list(fit(model, CONFIG.data(), CONFIG.training()))
    assert all(torch.equal(one, other) for one, other in zip(trained, model.state_dict().values(), strict=True))


def button(panel: panels.OverfitPanel, name: str) -> Any:
    return next(one for one in panel.widget.children[2].children if getattr(one, "description", "") == name)


def knob(panel: panels.OverfitPanel, name: str) -> Any:
    return next(one for row in panel.widget.children[:2] for one in row.children if one.description == name)


def plot_of(panel: panels.OverfitPanel) -> Plot:
    return next(child for child in panel.widget.children if isinstance(child, Plot))


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


ENDLESS = overfit.OverfitConfig(scenes=64, micro_batch=16, epochs=10_000)


def test_the_figure_holds_the_records_and_the_title_the_state(live: None) -> None:
    panel = panels.overfit(CONFIG)
    records = asyncio.run(awaited(panel))
    drawn = drawing(panel)
    by_name = {trace["name"]: trace for trace in drawn["data"]}
    assert list(by_name["run 1"]["y"]) == [record.loss for record in steps(records)]
    assert list(by_name["eval, same data"]["y"]) == [record.train_eval for record in epochs(records)]
    assert list(by_name["backbone"]["y"]) == [record.learning_rate["backbone"] for record in steps(records)]
    assert list(by_name["forwards"]["y"]) == [record.counters.forwards for record in epochs(records)]
    assert by_name["zero matrix = 1"]["y"] == [1.0, 1.0]
    assert drawn["layout"]["title"]["text"].startswith("finished")
    assert plot_of(panel).figure["layout"]["title"]["text"].startswith("finished")
    assert "finished" in table(panel)
    assert panel.runs[0].runner.tick_error is None


def test_the_stop_button_ends_the_run_within_a_window(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    until(lambda: len(panel.records()) >= 3)
    button(panel, "Stop").click()
    records = asyncio.run(awaited(panel))
    assert 3 <= len(records) < 40_000
    assert panel.state == "stopped"


def test_pause_step_and_start_go_window_by_window(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    until(lambda: len(panel.records()) >= 3)
    button(panel, "Pause").click()
    until(lambda: panel.state == "paused")
    time.sleep(0.2)
    before = len(steps(panel.records()))
    time.sleep(0.2)
    assert len(steps(panel.records())) == before
    for more in (1, 2, 3):
        button(panel, "Step").click()
        until(lambda more=more: len(steps(panel.records())) == before + more)  # type: ignore[misc]
        time.sleep(0.1)
        assert len(steps(panel.records())) == before + more
    button(panel, "Start").click()
    until(lambda: len(steps(panel.records())) > before + 5)
    assert len(panel.runs) == 1
    button(panel, "Stop").click()
    records = asyncio.run(awaited(panel))
    # Pausing changes nothing: the records are those of a run that was never paused.
    config = overfit.OverfitConfig(scenes=64, micro_batch=16, epochs=10_000)
    stream = fit(config.model(), config.data(), config.training())
    expected = [record for record, _ in zip(stream, records, strict=False)]
    stream.close()
    assert all(same(one, other) for one, other in zip(records, expected, strict=True))


def test_stop_ends_a_paused_run(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    button(panel, "Pause").click()
    until(lambda: panel.state == "paused")
    button(panel, "Stop").click()
    asyncio.run(awaited(panel))
    assert panel.state == "stopped"


def test_a_second_start_does_nothing_while_a_run_is_on(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    button(panel, "Start").click()
    assert len(panel.runs) == 1
    button(panel, "Stop").click()
    asyncio.run(awaited(panel))


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("accumulation", 4, "accumulation_steps"),
        ("micro-batch", 8, "micro_batch"),
        ("precision", "fp64", "precision"),
        ("lr", 0.01, "lr"),
        ("clip", 0.5, "clip_norm"),
        ("curriculum", "three-phase", "curriculum"),
        ("β", 0.3, "blend"),
        ("epochs", 2, "epochs"),
        ("seed", 3, "seed"),
    ],
)
def test_every_knob_sets_the_next_run_and_runs_stay_for_comparison(
    live: None, name: str, value: Any, field: str
) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, epochs=1))
    asyncio.run(awaited(panel))
    knob(panel, name).value = value
    button(panel, "Start").click()
    records = asyncio.run(awaited(panel))
    assert len(panel.runs) == 2
    assert getattr(panel.runs[1].config, field) == value
    expected = list(fit(panel.config.model(), panel.config.data(), panel.config.training()))
    assert all(same(one, other) for one, other in zip(records, expected, strict=True))
    labels = [trace["name"] for trace in drawing(panel)["data"]]
    assert "run 1" in labels and f"run 2: {field} {value}" in labels
    button(panel, "Remove last").click()
    assert [run.name for run in panel.runs] == ["run 1"]


def test_reset_takes_everything_off_and_start_begins_anew(live: None) -> None:
    panel = panels.overfit(ENDLESS)
    until(lambda: len(panel.records()) >= 3)
    button(panel, "Reset").click()
    assert panel.runs == [] and panel.state == "reset" and panel.records() == []
    assert drawing(panel)["data"] == []
    knob(panel, "epochs").value = 1
    button(panel, "Start").click()
    assert len(epochs(asyncio.run(awaited(panel)))) == 1
    assert panel.runs[0].name == "run 2"


def test_a_configuration_that_cannot_be_is_explained_and_loses_nothing(live: None) -> None:
    panel = panels.overfit(dataclasses.replace(CONFIG, epochs=1))
    asyncio.run(awaited(panel))
    assert panel.change(micro_batch=1000) is False
    assert "micro_batch is 1000" in panel.widget.children[3].value
    assert panel.config.micro_batch == CONFIG.micro_batch
    assert panel.change(seed=2)
    assert panel.widget.children[3].value == ""


def test_losses_that_are_none_and_skipped_steps_are_marked() -> None:
    curves = Curves()
    windows = steps(straight())
    strange = [
        dataclasses.replace(windows[0], loss=math.nan),
        dataclasses.replace(windows[1], applied=False, reason="gradient is not finite"),
        windows[2],
    ]
    curves.follow(strange)
    curves.follow([*strange, windows[3]])
    assert curves.at == [window.step for window in windows[:4]]
    assert curves.strange == [(1, "loss is nan")]
    assert curves.skipped == [(2, "gradient is not finite")]


def test_the_runs_exception_is_raised_where_it_is_awaited() -> None:
    def stream() -> Generator[Record]:
        yield straight()[0]
        raise ZeroDivisionError("in the run")

    runner = Runner(stream)
    runner.start()
    with pytest.raises(ZeroDivisionError, match="in the run"):
        asyncio.run(runner.wait())
    assert runner.state == "failed"
    assert len(runner.records()) == 1


def test_a_drawing_fault_does_not_end_the_run() -> None:
    records = straight()

    def tick() -> None:
        raise RuntimeError("cannot draw")

    runner = Runner(lambda: (record for record in records), tick)
    runner.start()
    assert len(asyncio.run(runner.wait())) == len(records)
    assert isinstance(runner.tick_error, RuntimeError)


def test_cancelling_the_wait_stops_the_run(headless: None) -> None:
    panel = panels.overfit(overfit.OverfitConfig(scenes=64, epochs=10_000))

    async def cancelled() -> None:
        task = asyncio.ensure_future(panel._wait())
        await asyncio.sleep(0.3)
        task.cancel()
        await task

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(cancelled())
    assert panel.state == "stopped"


def test_the_worker_uses_the_threads_of_the_notebook(headless: None) -> None:
    seen: list[int] = []

    def stream() -> Generator[Record]:
        seen.append(torch.get_num_threads())
        yield from ()

    runner = Runner(stream)
    runner.start()
    runner.start()
    asyncio.run(runner.wait())
    assert seen == [torch.get_num_threads()]


def test_missing_widgets_are_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    monkeypatch.setattr(panels.machine, "widgets", lambda: "no: anywidget not installed; figures are static")
    panel = panels.overfit(CONFIG)
    assert panel.widget is None
    assert len(asyncio.run(awaited(panel))) == 20
    assert capsys.readouterr().out == "live panels: no: anywidget not installed; figures are static\n"


def test_bad_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="config is a dict"):
        panels.overfit({"preset": "full"})  # type: ignore[arg-type]
