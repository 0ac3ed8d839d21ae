"""The panel of a search: it shows the trials as they come, stops and goes on, and awaiting it gives what it found."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.panels.tuning_panel import TuningPanel
from rislab.training.streaming import LearningConfig
from rislab.tuning import search
from rislab.tuning.space import Range
from rislab.tuning.study import TuningConfig

BASE = LearningConfig(preset="classroom", scenes=64, epochs=2, validation=16, micro_batch=16)
CONFIG = TuningConfig(base=BASE, space={"lr": Range(1e-3, 1e-2, log=True)}, trials=4, judged=32, pruner="none")


async def awaited(panel: TuningPanel) -> search.Progress:
    return await panel


def parts(panel: TuningPanel) -> tuple[Any, Any, Any, Any]:
    row, plot, _ = panel.widget.children
    go_on, stop, headline = row.children
    return go_on, stop, headline, plot


def test_it_stops_goes_on_and_shows_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    panel = panels.tuning(CONFIG, workers=1, skip_ladder=True, confirm=0)
    go_on, stop, headline, plot = parts(panel)
    while panel.progress is None or panel.progress.ended() < 1:
        assert panel.error is None
        time.sleep(0.05)
    assert "trials" in headline.value and "s left" in headline.value and go_on.disabled
    stop.click()
    told = asyncio.run(awaited(panel))
    assert panel.state == "stopped" and told.ended() < CONFIG.trials
    time.sleep(0.5)
    assert stop.disabled and not go_on.disabled
    go_on.click()
    told = asyncio.run(awaited(panel))
    time.sleep(0.5)
    assert panel.state == "finished" and [trial.state for trial in told.trials] == ["complete"] * CONFIG.trials
    assert "4 of 4 trials" in headline.value
    shown = [trace for trace in plot.figure["data"] if trace.get("name") == "complete × 4"]
    assert len(shown) == 1 and len(shown[0]["x"]) == 4
    # Another panel with the same configuration finds the study, and has nothing left to do.
    another = panels.tuning(CONFIG, workers=1, skip_ladder=True, confirm=2)
    assert another.verdict() == ""
    again = asyncio.run(awaited(another))
    assert again.trials == told.trials and len(again.finals) == 4
    time.sleep(0.5)
    assert search.verdict(again.finals, CONFIG) in another.widget.children[-1].value
    assert parts(another)[0].disabled and plot.figure["layout"]["xaxis"]["range"] == [-0.5, 3.5]


def test_headless_it_leaves_nothing_behind_and_raises_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RISLAB_LIVE", "0")

    def red(folder: Path, config: TuningConfig, **options: Any) -> Any:
        raise InputError("check 'oracle' is red")
        yield

    monkeypatch.setattr(search, "search", red)
    panel = panels.tuning(CONFIG, workers=1, confirm=0)
    with pytest.raises(InputError, match="'oracle' is red"):
        asyncio.run(awaited(panel))
    assert panel.widget is None and panel.state == "failed" and list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="allowed: a TuningConfig"):
        panels.tuning(BASE)  # type: ignore[arg-type]
