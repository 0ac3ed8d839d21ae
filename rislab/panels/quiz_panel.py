"""The quiz on the screen: what a hidden fault does, four names, and an explanation after the answer."""

from __future__ import annotations

import html
from collections.abc import Callable, Generator
from typing import Any

import plotly.graph_objects as go

from rislab.checkup.findings import Findings
from rislab.checkup.html_table import html_table
from rislab.errors import check_choice, check_number
from rislab.faults.comparison import ComparisonCache, OptimiserRun, diagnose_fault, event_counts
from rislab.faults.quiz import Question, Quiz
from rislab.panels.base import RequestPanel, offer, see, unfold
from rislab.panels.faults_panel import diff_of, quantities_table
from rislab.plots import faults as fault_plots
from rislab.plots.style import empty_figure_dict
from rislab.training.records import console

HIDDEN = ("correct", "this loop")
QUIZ_VIEWS = ("windows", "coverage", "log", "answer")


class QuizPanel(RequestPanel[int, Quiz]):
    """Questions one by one; each shows what a hidden fault does, takes one answer, and explains.

    Awaiting it gives the Quiz, once what is shown has been trained; answers may come later.

    Args:
        seed: see quiz.questions().
        count: of questions.
        live: whether to make widgets; without them it shows the first question.
    """

    def __init__(self, seed: int, count: int, *, live: bool) -> None:
        self.quiz = Quiz(seed, count)
        self.number, self.view, self.verdict = 1, "windows", ""
        self._runs: dict[int, OptimiserRun] = {}
        self._findings: dict[int, Findings] = {}
        self._cache = ComparisonCache()
        super().__init__(live=live)
        if live:
            self.submit(1)
            self.redraw()

    @property
    def question(self) -> Question:
        """The present one."""
        return self.quiz.questions[self.number - 1]

    @property
    def answered(self) -> bool:
        """Whether the present question has its answer."""
        return self.number in self.quiz.answers

    @property
    def views(self) -> tuple[str, ...]:
        """What there is to see of the present question."""
        return QUIZ_VIEWS if self.answered else QUIZ_VIEWS[:-1]

    @property
    def headline(self) -> str:
        """Where the quiz stands."""
        right = f"{self.quiz.score} of {len(self.quiz.answers)} right"
        over = ", the end" if len(self.quiz.answers) == self.quiz.count else ""
        return f"Question {self.number} of {self.quiz.count} ({right}{over})"

    def known_run(self) -> OptimiserRun | None:
        """The runs of the present question, if they have been trained."""
        return self._runs.get(self.number)

    def known_findings(self) -> Findings | None:
        """What the checkup says of the present question, if it has been asked."""
        return self._findings.get(self.number)

    def run(self, number: int) -> OptimiserRun:
        """The runs of a question, trained here if need be; raises InputError for a question there is not."""
        check_number("number", number, 1, self.quiz.count, integer=True)
        if number not in self._runs:
            self._runs[number] = self._cache.compare_runs(self.quiz.questions[number - 1].fault)
        return self._runs[number]

    def findings(self, number: int) -> Findings:
        """What the checkup says of the loop of a question; the loop is trained once more for it."""
        run = self.run(number)
        if number not in self._findings:
            self._findings[number] = diagnose_fault(run.fault, run.setting)
        return self._findings[number]

    def figure(self, number: int = 1) -> go.Figure:
        """All figures of a question in one, without a name or an answer."""
        figure = fault_plots.overview(self.run(number), HIDDEN)
        return figure.update_layout(title_text=f"Question {number}: what is wrong with this loop?")

    def answer(self, name: str) -> None:
        """Answer the present question.

        Raises:
            InputError: for a name that is not offered, or a question that has its answer.
        """
        self.verdict = self.quiz.answer(self.number, name)
        self.view = "answer"
        self.redraw()

    def next(self) -> None:
        """Go on to the next question, if there is one."""
        if self.number < self.quiz.count:
            self.number, self.view, self.verdict = self.number + 1, "windows", ""
            self.submit(self.number)
            self.redraw()

    def look(self, view: str) -> None:
        """Show "windows", "coverage" or "log", and after the answer "answer"; raises InputError for any other."""
        check_choice("view", view, self.views)
        self.view = view
        self.redraw()

    def work(self, request: int) -> Generator[None]:
        self.run(request)
        yield
        self.findings(request)
        yield
        # While the answer is thought of.
        if request < self.quiz.count:
            self.run(request + 1)

    def result(self) -> Quiz:
        return self.quiz

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        head, status, text = widgets.HTML(), widgets.HTML(), widgets.HTML()
        views = widgets.ToggleButtons(options=self.views, style={"button_width": "90px"})
        names = [widgets.Button(layout={"width": "auto"}) for _ in self.question.choices]
        onward = widgets.Button(description="Next", icon="arrow-right", layout={"width": "90px"})
        plot = self.plot(empty_figure_dict())

        def draw() -> None:
            run = self.known_run()
            offer(views, self.views, self.view)
            head.value = f"<b>{self.headline}.</b> What is wrong with this loop?"
            status.value = "training the hidden loop …" if run is None and self.error is None else ""
            for button, name in zip(names, self.question.choices, strict=True):
                button.description, button.disabled = name, self.answered or run is None
                right = self.answered and name == self.question.fault.name
                button.icon = "check" if right else "times" if self.quiz.answers.get(self.number) == name else ""
            onward.disabled = not self.answered or self.number == self.quiz.count
            drawn = run is not None and self.view in ("windows", "coverage")
            unfold(plot, drawn)
            see(text, run is not None and not drawn)
            if run is not None and drawn:
                figure = fault_plots.signals if self.view == "windows" else fault_plots.weight_grids
                plot.update(figure(run, HIDDEN))
                plot.flush()
            elif run is not None:
                text.value = log(run) if self.view == "log" else explanation(self, run)

        self.user_input.observe(views, self.look)
        for button in names:
            button.on_click(lambda button: self.answer(button.description))
        onward.on_click(lambda button: self.next())
        rows = (widgets.HBox([head, status]), widgets.HBox([*names, onward]))
        return widgets.VBox([*rows, self.alarm, views, text, plot]), draw

    def static(self) -> dict[str, Any]:
        return self.figure()._repr_mimebundle_()


def log(run: OptimiserRun) -> str:
    """What the hidden loop printed, line by line, and its counts beside those of the correct one, as HTML."""
    lines = [html.escape(line) for line in console(run.faulty.records)]
    lines += [f"warning: {html.escape(text)}" for text in run.warnings]
    correct, faulty = event_counts(run.correct), event_counts(run.faulty)
    rows = [(name, value, faulty.get(name, "")) for name, value in correct.items()]
    counts = html_table(("counted", *HIDDEN), rows, label="counts of events", numbers=(1, 2), row_title=0, size=12)
    setting = ", ".join(f"{name} {value}" for name, value in run.setting.items())
    printed = f"<pre style='font-size:11px;line-height:1.35;margin:0;white-space:pre-wrap'>{chr(10).join(lines)}</pre>"
    return (
        f"<div style='font-size:12px'>{html.escape(setting)}</div><div style='display:flex;gap:24px;flex-wrap:wrap'>"
        f"<div>{printed}</div><div>{counts}</div></div>"
    )


def explanation(panel: QuizPanel, run: OptimiserRun) -> str:
    """What the answer was, with the diff and the quantities that it moved, as HTML."""
    numbers = quantities_table(run.differences(), [symptom.quantity for symptom in run.fault.symptoms])
    findings = panel.known_findings()
    return (
        f"<div style='line-height:1.4'>{html.escape(panel.verdict)}</div><div style='display:flex;gap:24px'>"
        f"<div style='flex:3'>{diff_of(run.fault)}</div><div style='flex:2'>{numbers}</div></div>"
        f"<div style='margin-top:8px'>What the checkup says, which knows neither the name nor a correct loop:</div>"
        f"{'it is being asked …' if findings is None else findings._repr_html_()}"
    )
