"""Panels without a browser: threads, exceptions, stopping, and the same cells headless."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from rislab import overfit, panels
from rislab.errors import InputError
from rislab.records import Record, epochs, same, steps
from rislab.training import fit

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


def test_the_figure_holds_the_records_and_the_title_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    panel = panels.overfit(CONFIG)
    records = asyncio.run(awaited(panel))
    figure = panel.widget.children[1]  # type: ignore[union-attr]
    assert list(figure.data[0].y) == [record.loss for record in steps(records)]
    assert list(figure.data[1].y) == [record.train_eval for record in epochs(records)]
    assert figure.layout.title.text.startswith("finished")
    assert panel._runner.tick_error is None


def test_the_stop_button_ends_the_run_within_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    config = overfit.OverfitConfig(scenes=64, micro_batch=16, epochs=10_000)
    panel = panels.overfit(config)
    while len(panel.records()) < 3:
        time.sleep(0.01)
    button = panel.widget.children[0].children[0]  # type: ignore[union-attr]
    button.click()
    records = asyncio.run(awaited(panel))
    assert 3 <= len(records) < 40_000
    assert panel._runner.state == "stopped"


def test_the_runs_exception_is_raised_where_it_is_awaited() -> None:
    def stream() -> Generator[Record]:
        yield straight()[0]
        raise ZeroDivisionError("in the run")

    runner = panels.Runner(stream)
    runner.start()
    with pytest.raises(ZeroDivisionError, match="in the run"):
        asyncio.run(runner.wait())
    assert runner.state == "failed"
    assert len(runner.records()) == 1


def test_a_drawing_fault_does_not_end_the_run() -> None:
    records = straight()

    def tick() -> None:
        raise RuntimeError("cannot draw")

    runner = panels.Runner(lambda: (record for record in records), tick)
    runner.start()
    assert len(asyncio.run(runner.wait())) == len(records)
    assert isinstance(runner.tick_error, RuntimeError)


def test_cancelling_the_wait_stops_the_run(headless: None) -> None:
    panel = panels.overfit(overfit.OverfitConfig(scenes=64, epochs=10_000))

    async def cancelled() -> None:
        task = asyncio.ensure_future(panel._runner.wait())
        await asyncio.sleep(0.3)
        task.cancel()
        await task

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(cancelled())
    assert not panel._runner.running


def test_the_worker_uses_the_threads_of_the_notebook(headless: None) -> None:
    seen: list[int] = []

    def stream() -> Generator[Record]:
        seen.append(torch.get_num_threads())
        yield from ()

    runner = panels.Runner(stream)
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
