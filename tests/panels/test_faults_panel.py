"""The panels of the clinic without a browser: choose, run, look, answer; the newest wish counts, errors are said."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.faults import catalogue, comparison
from rislab.faults.comparison import ComparisonCache, ComparisonConfig, FaultReport, OptimiserRun
from rislab.panels import faults_panel, quiz_panel
from rislab.panels.background_task import LatestOnly
from rislab.panels.faults_panel import FaultPanel
from rislab.panels.plot_widget import PlotWidget
from rislab.panels.quiz_panel import QUIZ_VIEWS, QuizPanel


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")


def awaited(panel: FaultPanel) -> FaultReport:
    async def wait() -> FaultReport:
        return await panel

    return asyncio.run(wait())


def of_kind(panel: Any, name: str) -> list[Any]:
    found, left = [], [panel.widget]
    while left:
        widget = left.pop(0)
        found += [widget] if type(widget).__name__ == name else []
        left += getattr(widget, "children", ())
    return found


def shown(panel: Any) -> str:
    return " ".join(widget.value for widget in of_kind(panel, "HTML") if widget.layout.display != "none")


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["0", "1"])
def test_the_panel_gives_the_study_of_a_plain_run(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", setting)
    panel = panels.fault("never divided", epochs=1)
    study = awaited(panel)
    assert (panel.state, panel.widget is not None) == ("finished", setting == "1")
    plain = comparison.fault_report(catalogue.find_fault("never divided"), epochs=1)
    assert [*study.runs] == [*plain.runs] == ["adam", "sgd"]
    for name, case in study.runs.items():
        assert case.differences() == plain.runs[name].differences()
    assert "text/plain" in panel._repr_mimebundle_()


@pytest.mark.slow
def test_choosing_running_and_looking(live: None) -> None:
    panel = panels.fault("never divided", epochs=1)
    panel.settle()
    (plot,) = of_kind(panel, "PlotWidget")
    (views,) = of_kind(panel, "ToggleButtons")
    assert isinstance(plot, PlotWidget) and plot.layout.height == "0px"
    assert "weight = " in shown(panel) and "α of full windows" in shown(panel)
    titles = {}
    for view in ("losses", "windows", "coverage"):
        views.value = view
        assert panel.view == view and plot.layout.height == "auto"
        titles[view] = plot.figure["layout"]["title"]["text"]
    assert len(set(titles.values())) == 3
    family, fault, optimiser = of_kind(panel, "Dropdown")
    optimiser.value = "sgd"
    assert panel.optimiser_run is not None and panel.optimiser_run.optimiser == "sgd"  # type: ignore[union-attr]
    family.value = "data and estimator"
    fault.value = "conjugated steering"
    assert (panel.fault.name, panel.state, views.value) == ("conjugated steering", "chosen", "diff")
    assert views.options == ("diff", "checks")
    assert "press Run" in shown(panel)
    run = next(button for button in of_kind(panel, "Button") if button.description == "Run")
    run.click()
    panel.settle()
    views.value = "checks"
    assert "conjugated steering" in plot.figure["layout"]["title"]["text"]
    # Back to what was trained before, which is still known.
    panel.choose("never divided")
    assert panel.state == "finished" and family.value == "accumulation" and fault.value == "never divided"


def test_another_fault_that_is_chosen_meanwhile_is_not_called_trained(
    live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def slow(*unused: object, **options: object) -> Iterator[FaultReport]:
        at_work.set()
        assert go_on.wait(300)
        yield from ()

    monkeypatch.setattr(ComparisonCache, "reports", slow)
    panel = panels.fault("never divided")
    assert at_work.wait(300) and panel.progress() == "training the correct and the faulty loop …"
    panel.choose("divided twice")
    assert panel.progress() == "press Run; until then never divided is trained …" and panel.progress() in shown(panel)
    go_on.set()
    panel.settle()
    assert panel.progress() == "press Run" and "press Run" in shown(panel)


def test_views_and_names_that_there_are_not(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean 'never divided'"):
        panels.fault("never devided")
    with pytest.raises(InputError, match="epochs is 0"):
        panels.fault(epochs=0)
    monkeypatch.setattr(ComparisonCache, "reports", lambda *unused, **options: iter(()))
    panel = panels.fault("conjugated steering")
    for call, said in (
        (lambda: panel.look("losses"), "view is 'losses'; allowed: 'diff', 'checks'"),
        (lambda: panel.change("rmsprop"), "optimiser is 'rmsprop'"),
        (lambda: panel.choose("nothing"), "unknown fault 'nothing'"),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_an_exception_is_shown_and_raised_where_the_panel_is_awaited(
    live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*unused: object, **options: object) -> None:
        raise ArithmeticError("<seven>")

    monkeypatch.setattr(ComparisonCache, "reports", fails)
    panel = panels.fault("never divided")
    with pytest.raises(ArithmeticError, match="seven"):
        awaited(panel)
    assert panel.state == "failed"
    assert "ArithmeticError: &lt;seven&gt;" in shown(panel)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ComparisonCache.compare_runs

    def short(self: ComparisonCache, fault: Any, **options: Any) -> OptimiserRun:
        return real(self, fault, epochs=1)

    monkeypatch.setattr(ComparisonCache, "compare_runs", short)


@pytest.mark.slow
def test_a_quiz_from_the_first_question_to_the_score(live: None, quick: None) -> None:
    panel = panels.quiz(seed=1, count=2)
    names = of_kind(panel, "Button")[:4]
    (views,) = of_kind(panel, "ToggleButtons")
    right = [question.fault.name for question in panel.quiz.questions]
    panel.settle()
    assert [button.description for button in names] == [*panel.question.choices]
    assert views.options == QUIZ_VIEWS[:-1]
    (plot,) = of_kind(panel, "PlotWidget")
    for view in ("windows", "coverage"):
        views.value = view
        assert right[0] not in str(plot.figure)
    views.value = "log"
    assert "Epoch 001/001" in shown(panel)
    told = shown(panel)
    assert right[0] not in told and panel.question.fault.story not in told
    assert "Diff" not in told and "line " not in told
    next(button for button in names if button.description == right[0]).click()
    assert panel.headline == "Question 1 of 2 (1 of 1 right)"
    assert all(button.disabled for button in names)
    assert views.options == QUIZ_VIEWS and views.value == "answer"
    assert "Right." in shown(panel) and f"({right[0]})" in shown(panel)
    assert "What the checkup says" in shown(panel)
    assert all(finding.name in shown(panel) for finding in panel.findings(1))
    next(button for button in of_kind(panel, "Button") if button.description == "Next").click()
    panel.settle()
    assert (panel.number, panel.view) == (2, "windows")
    assert not any(button.disabled for button in names)
    next(button for button in names if button.description != right[1]).click()
    assert panel.headline == "Question 2 of 2 (1 of 2 right, the end)"
    assert f"it is not {panel.quiz.answers[2]!r} but {right[1]!r}" in panel.verdict
    panel.next()
    assert panel.number == 2


def test_headless_the_quiz_shows_its_first_question_and_no_answer(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    panel = panels.quiz(seed=1, count=2)
    assert panel.widget is None
    bundle = panel.figure().to_json()
    assert panel.question.fault.name not in bundle
    assert "Question 1" in bundle
    with pytest.raises(InputError, match="number is 3"):
        panel.run(3)
    with pytest.raises(InputError, match="view is 'answer'"):
        panel.look("answer")


def test_tables_say_what_was_measured_signs_first() -> None:
    rows = [comparison.QuantityComparison("other", 1.0, 2.0), comparison.QuantityComparison("α <first>", 1.0, 4.0)]
    page = faults_panel.quantities_table(rows, ["α <first>"])
    assert page.index("● α &lt;first&gt;") < page.index("other")
    assert ">4<" in page


def test_the_quiz_log_holds_counts_of_both_loops(quick: None) -> None:
    case = ComparisonCache().compare_runs(catalogue.find_fault("backward after the batch loop"))
    page = quiz_panel.log(case)
    counts = [comparison.event_counts(seen)["backwards"] for seen in (case.correct, case.faulty)]
    assert counts[0] != counts[1]
    assert all(f">{count}<" in page for count in counts)


def test_panels_are_of_their_kind(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatestOnly, "submit", lambda self, request: None)
    assert isinstance(panels.fault(), FaultPanel)
    assert isinstance(panels.quiz(), QuizPanel)
    assert FaultPanel(ComparisonConfig(), live=False).widget is None
