"""The quiz on the screen: what a hidden fault does, four names, and an explanation after the answer."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from rislab.checkup.findings import Findings
from rislab.errors import check_choice, check_number
from rislab.faults.comparison import ComparisonCache, OptimiserRun, diagnose_fault, event_counts
from rislab.faults.quiz import Question, Quiz
from rislab.panels.faults_panel import (
    RIGHT,
    LatestOnly,
    as_table,
    diff_of,
    empty_plot,
    failure,
    offer,
    readings_table,
    see,
    unfold,
)
from rislab.plots import faults as fault_plots
from rislab.training.records import console

HIDDEN = ("correct", "this loop")
QUIZ_VIEWS = ("windows", "coverage", "log", "answer")


class QuizPanel:
    """Questions one by one; each shows what a hidden fault does, takes one answer, and explains.

    Args:
        seed, count: see quiz.questions(). live: whether to make widgets; without them it shows the first question.
    """

    def __init__(self, seed: int, count: int, *, live: bool) -> None:
        self.quiz = Quiz(seed, count)
        self.number, self.view, self.said = 1, "windows", ""
        self.error: Exception | None = None
        self.widget: Any = None
        self._cases: dict[int, OptimiserRun] = {}
        self._findings: dict[int, Findings] = {}
        self._clinic = ComparisonCache()
        self._show: Callable[[], None] = lambda: None
        self.newest = LatestOnly(self._follow, self._fail)
        if live:
            self.widget, self._show = _quiz_widget(self)
            self.newest.ask(1)

    @property
    def question(self) -> Question:
        """The present one."""
        return self.quiz.questions[self.number - 1]

    @property
    def answered(self) -> bool:
        """Whether the present question has its answer."""
        return self.number in self.quiz.answers

    @property
    def headline(self) -> str:
        """Where the quiz stands."""
        right = f"{self.quiz.score} of {len(self.quiz.answers)} right"
        over = ", the end" if len(self.quiz.answers) == self.quiz.count else ""
        return f"Question {self.number} of {self.quiz.count} ({right}{over})"

    def known(self) -> OptimiserRun | None:
        """The case of the present question, if it has been trained."""
        return self._cases.get(self.number)

    def case(self, number: int) -> OptimiserRun:
        """The case of a question, trained here if it is not known; raises InputError for a question there is not."""
        check_number("number", number, 1, self.quiz.count, integer=True)
        if number not in self._cases:
            self._cases[number] = self._clinic.compare_runs(self.quiz.questions[number - 1].fault)
        return self._cases[number]

    def findings(self, number: int) -> Findings:
        """What the checkup says of the loop of a question; the loop is trained once more for it."""
        case = self.case(number)
        if number not in self._findings:
            self._findings[number] = diagnose_fault(case.fault, case.setting)
        return self._findings[number]

    def figure(self, number: int = 1) -> go.Figure:
        """All pictures of a question, without a name or an answer."""
        figure = fault_plots.pictures(self.case(number), HIDDEN)
        return figure.update_layout(title_text=f"Question {number}: what is wrong with this loop?")

    def answer(self, name: str) -> None:
        """Answer the present question.

        Raises:
            InputError: for a name that is not offered, or a question that has its answer.
        """
        self.said = self.quiz.answer(self.number, name)
        self.view = "answer"
        self._show()

    def next(self) -> None:
        """Go on to the next question, if there is one."""
        if self.number < self.quiz.count:
            self.number, self.view, self.said, self.error = self.number + 1, "windows", "", None
            self.newest.ask(self.number)
            self._show()

    def look(self, view: str) -> None:
        """Show "windows", "coverage" or "log", and after the answer "answer"; raises InputError for any other."""
        check_choice("view", view, QUIZ_VIEWS if self.answered else QUIZ_VIEWS[:-1])
        self.view = view
        self._show()

    def _follow(self, number: int) -> None:
        self.case(number)
        self._show()
        self.findings(number)
        # While the answer is thought of.
        if number < self.quiz.count and not self.newest.overtaken:
            self.case(number + 1)

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._show()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        shown = self.widget if self.widget is not None else self.figure()
        return shown._repr_mimebundle_(**options)


def log(case: OptimiserRun) -> str:
    """What the hidden loop told, line by line, and its counts beside those of the correct one, as HTML."""
    lines = [html.escape(line) for line in console(case.faulty.records)]
    lines += [f"warning: {html.escape(text)}" for text in case.warnings]
    mine, its = event_counts(case.correct), event_counts(case.faulty)
    rows = [
        f"<td>{name}</td><td {RIGHT}>{value}</td><td {RIGHT}>{its.get(name, '')}</td>" for name, value in mine.items()
    ]
    setting = ", ".join(f"{name} {value}" for name, value in case.setting.items())
    told = f"<pre style='font-size:11px;line-height:1.35;margin:0;white-space:pre-wrap'>{chr(10).join(lines)}</pre>"
    return (
        f"<div style='font-size:12px'>{html.escape(setting)}</div><div style='display:flex;gap:24px;flex-wrap:wrap'>"
        f"<div>{told}</div><div>{as_table(('counted', *HIDDEN), rows)}</div></div>"
    )


def _quiz_widget(panel: QuizPanel) -> tuple[Any, Callable[[], None]]:
    """Question, views, four names and Next, and the function that shows the panel's state in them."""
    import ipywidgets as widgets

    quiet = threading.local()
    head, status, text = widgets.HTML(), widgets.HTML(), widgets.HTML()
    view = widgets.ToggleButtons(options=QUIZ_VIEWS[:-1], value=panel.view, style={"button_width": "90px"})
    names = [widgets.Button(layout={"width": "auto"}) for _ in panel.question.choices]
    onward = widgets.Button(description="Next", icon="arrow-right", layout={"width": "90px"})
    plot = empty_plot()

    def looked(change: Any) -> None:
        if not vars(quiet).get("on") and change["new"] is not None:
            panel.look(change["new"])

    view.observe(looked, "value")
    for button in names:
        button.on_click(lambda button: panel.answer(button.description))
    onward.on_click(lambda button: panel.next())

    def show() -> None:
        quiet.on = True
        offer(view, QUIZ_VIEWS if panel.answered else QUIZ_VIEWS[:-1], panel.view)
        quiet.on = False
        case = panel.known()
        head.value = f"<b>{panel.headline}.</b> What is wrong with this loop?"
        waiting = "training the hidden loop …" if case is None else ""
        status.value = failure(panel.error) if panel.error is not None else waiting
        for button, name in zip(names, panel.question.choices, strict=True):
            button.description, button.disabled = name, panel.answered or case is None
            chosen = panel.quiz.answers.get(panel.number) == name
            right = panel.answered and name == panel.question.fault.name
            button.icon = "check" if right else "times" if chosen else ""
        onward.disabled = not panel.answered or panel.number == panel.quiz.count
        drawn = case is not None and panel.view in ("windows", "coverage")
        unfold(plot, drawn)
        see(text, case is not None and not drawn)
        if case is None:
            return
        if drawn:
            draw = fault_plots.signals if panel.view == "windows" else fault_plots.coverage
            plot.update(draw(case, HIDDEN))
            plot.flush()
        else:
            text.value = log(case) if panel.view == "log" else explanation(panel, case)

    show()
    return widgets.VBox([widgets.HBox([head, status]), widgets.HBox([*names, onward]), view, text, plot]), show


def explanation(panel: QuizPanel, case: OptimiserRun) -> str:
    """What the answer was, with the diff and the readings that it moved, as HTML."""
    signs = [sign.quantity for sign in case.fault.symptoms]
    numbers = readings_table(case.differences(), signs)
    return (
        f"<div style='line-height:1.4'>{html.escape(panel.said)}</div><div style='display:flex;gap:24px'>"
        f"<div style='flex:3'>{diff_of(case.fault)}</div><div style='flex:2'>{numbers}</div></div>"
        f"<div style='margin-top:8px'>What the checkup says, which knows neither the name nor a correct loop:</div>"
        f"{panel.findings(panel.number)._repr_html_()}"
    )
