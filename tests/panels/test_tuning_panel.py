"""The panel of a search: it shows the trials as they come, stops and goes on, and awaiting it gives what it found."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.panels import tuning_panel
from rislab.panels.tuning_panel import TuningPanel
from rislab.plots import tuning as tuning_plots
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.analysis import Rerun, verdict
from rislab.tuning.search import SearchProgress
from rislab.tuning.space import Range
from rislab.tuning.study import Trial
from rislab.tuning.tuning_config import TuningConfig

BASE = LearningConfig(preset="classroom", scenes=64, epochs=2, validation=16, micro_batch=16)
CONFIG = TuningConfig(base=BASE, space={"lr": Range(1e-3, 1e-2, log=True)}, trials=4, eval_scenes=32, pruner="none")


async def awaited(panel: TuningPanel) -> SearchProgress:
    return await panel


def words(headline: Any) -> str:
    """What a headline says."""
    return re.sub("<.*?>", "", headline.value)


def parts(panel: TuningPanel) -> tuple[Any, Any, Any, Any]:
    row, _, plot, _ = panel.widget.children
    go_on, stop, headline = row.children
    return go_on, stop, headline, plot


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_it_stops_goes_on_and_shows_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    panel = panels.tuning(CONFIG, workers=1, skip_ladder=True, confirm=0)
    go_on, stop, headline, plot = parts(panel)
    while panel.progress is None or panel.progress.ended() < 1:
        assert panel.error is None
        time.sleep(0.05)
    assert "trials" in words(headline) and "s left" in words(headline) and go_on.disabled
    stop.click()
    progress = asyncio.run(awaited(panel))
    assert panel.state == "stopped" and progress.ended() < CONFIG.trials
    assert stop.disabled and not go_on.disabled and "left" not in words(headline)
    go_on.click()
    progress = asyncio.run(awaited(panel))
    assert panel.state == "finished" and [trial.state for trial in progress.trials] == ["complete"] * CONFIG.trials
    assert "4 of 4 trials" in words(headline)
    shown = [trace for trace in plot.figure["data"] if trace.get("name") == "complete × 4"]
    assert len(shown) == 1 and len(shown[0]["x"]) == 4
    assert plot.figure["layout"]["xaxis"]["range"] == [-0.5, 3.5]
    # Another panel with the same configuration finds the study, and has nothing left to do.
    another = panels.tuning(CONFIG, workers=1, skip_ladder=True, confirm=0)
    assert asyncio.run(awaited(another)).trials == progress.trials
    assert another.state == "finished" and another.verdict() == ""


def test_the_verdict_is_shown_once_best_and_default_are_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finals = tuple(Rerun(name, seed, 0.9, 0.1) for name in ("default", "best") for seed in (1, 2))
    best = Trial(3, "complete", {}, {1: 0.5}, 0.5, 0.04, "", 1.0)

    def ended(folder: Path, config: TuningConfig, **options: Any) -> Any:
        assert options == {"workers": 1, "confirm": 2, "skip_ladder": True}
        # Before a trial has ended something is seen to go on.
        yield SearchProgress("search", {}, trials=(Trial(0, "running", {}, {}, None, None, "", 0.0),))
        assert begun.wait(120)
        yield SearchProgress("confirm", {}, finals=finals[:1], warnings=("<two> warnings",))
        assert gate.wait(120)
        yield SearchProgress("done", {}, best=best, runoff=finals, finals=finals, warnings=("<two> warnings",))

    begun, gate = threading.Event(), threading.Event()
    monkeypatch.setattr(tuning_panel, "run_search", ended)
    panel = TuningPanel(CONFIG, tmp_path, live=True, workers=1, skip_ladder=True, confirm=2)
    go_on, stop, headline, _ = parts(panel)
    while "trials" not in words(headline):
        time.sleep(0.01)
    assert words(headline) == "running, searching: 0 of 4 trials, 1 running"
    begun.set()
    while "best and default" not in words(headline):
        time.sleep(0.01)
    assert panel.verdict() == "" and go_on.disabled and not stop.disabled
    assert words(headline) == "running, training best and default again: 1 of 4 trainings"
    # A drawing that fails is said, and ends no search.
    monkeypatch.setattr(tuning_plots, "history", lambda *unused: 1 / 0)
    gate.set()
    assert asyncio.run(awaited(panel)).finals == finals
    note = panel.widget.children[-1].value
    assert verdict(finals, CONFIG) in note and "&lt;two&gt; warnings" in note
    assert panel.error is None and "could not be drawn: ZeroDivisionError" in panel.alarm.value
    assert go_on.disabled and stop.disabled and words(headline).startswith("finished, all done")
    assert words(headline).endswith("; best of the run-off: trial 3, peb 0.500 ± 0.040")
    # Two lines are as high as a button, and no button moves or shrinks as the text grows.
    assert [one.layout.flex for one in (go_on, stop, headline)] == ["0 0 auto", "0 0 auto", "1 1 0"]
    panel.progress = SearchProgress("ladder", {"checks": ["PASS splits"]})
    assert panel.headline() == "finished, climbing the overfit ladder before the search: 1 of 18 checks done"


def test_a_search_says_that_it_is_stopping_until_the_step_in_progress_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, read = threading.Event(), threading.Event()

    def in_progress(folder: Path, config: TuningConfig, **options: Any) -> Any:
        yield SearchProgress("search", {}, trials=(Trial(0, "running", {}, {}, None, None, "", 0.0),), left=60.0)
        at_work.set()
        read.wait(20)  # the step in progress, which lasts until the panel has been read
        yield SearchProgress("search", {}, trials=(Trial(0, "running", {}, {}, None, None, "", 0.0),), left=60.0)

    monkeypatch.setattr(tuning_panel, "run_search", in_progress)
    panel = TuningPanel(CONFIG, tmp_path, live=True)
    go_on, stop, headline, _ = parts(panel)
    assert at_work.wait(120) and words(headline).startswith("running")
    stop.click()
    while words(headline).startswith("running"):  # a drawing that had begun is followed by another
        time.sleep(0.01)
    assert words(headline) == "stopping after the step in progress, searching: 0 of 4 trials, 1 running"
    assert stop.disabled and go_on.disabled
    panel.progress = SearchProgress("ladder", {"checks": []})
    assert panel.headline().startswith("stopping after the check in progress, climbing the overfit ladder")
    read.set()
    asyncio.run(awaited(panel))
    assert words(headline) == "stopped, searching: 0 of 4 trials"
    assert stop.disabled and not go_on.disabled


def test_headless_it_leaves_nothing_behind_and_raises_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RISLAB_LIVE", "0")

    def red(folder: Path, config: TuningConfig, **options: Any) -> Any:
        raise InputError("check 'oracle' is red")
        yield

    monkeypatch.setattr(tuning_panel, "run_search", red)
    panel = panels.tuning(CONFIG, workers=1, confirm=0)
    with pytest.raises(InputError, match="'oracle' is red"):
        asyncio.run(awaited(panel))
    assert panel.widget is None and panel.state == "failed" and list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="allowed: a TuningConfig"):
        panels.tuning(BASE)  # type: ignore[arg-type]
