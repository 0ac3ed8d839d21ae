"""A prediction on the screen: an answer is locked, and only then the figure appears."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from rislab.errors import InputError, check_choice
from rislab.faults.lessons import Prediction
from rislab.panels.background_task import POLL_SECONDS
from rislab.panels.base import Panel, say, see

FRAME = "border-left:4px solid {};padding:6px 12px;line-height:1.45;font-size:14px"
RIGHT_COLOUR, OTHER_COLOUR = "#009e73", "#0072b2"
PLOTLY = "application/vnd.plotly.v1+json"
SKIPPED = "shown without an answer"
HOLDS_FOR = "Found with the parameters that the notebook comes with; others may give another answer."
WITHHELD = 'This appears once an answer is locked; without widgets by .lock("…") in the cell of the question.'


class PredictionPanel(Panel[str]):
    """A question with a few answers, one of which is locked; awaiting it gives that answer.

    Attributes:
        answer: that was locked; "" if there is none.
        shown: whether the figures are shown: an answer was locked, or somebody would not wait.

    Args:
        prediction: that is asked.
        live: whether to make widgets.
        answers: without widgets, whether the right answer stands with the question, and its figure below it.
        on_answer: called when an answer is locked, or nobody waits for one.
    """

    def __init__(
        self, prediction: Prediction, *, live: bool, answers: bool, on_answer: Callable[[], None] = lambda: None
    ) -> None:
        self.prediction, self.answers, self._on_answer = prediction, answers, on_answer
        self.answer = ""
        self.shown = answers and not live
        self._hidden: list[Callable[[], None]] = []
        super().__init__(live=live)
        self.redraw()

    @property
    def is_right(self) -> bool:
        """Whether the answer that was locked is the right one."""
        return self.answer == self.prediction.right

    def lock(self, answer: str) -> None:
        """Answer for good, and show the figures.

        Raises:
            InputError: for an answer that is not offered, or a second one.
        """
        check_choice("answer", answer, self.prediction.choices)
        if self.answer or (self.shown and self.widget is not None):
            raise InputError(f"answer is {answer!r}, and it is locked already; allowed: one answer, before the figure")
        self.answer = answer
        self._reveal()

    def skip(self) -> None:
        """Show the figures without an answer."""
        self._reveal()

    def _reveal(self) -> None:
        self.shown = True
        for show in self._hidden:
            show()
        self._on_answer()
        self.redraw()

    def shows(self, *things: Any) -> Any:
        """What may be seen once an answer is locked; the last value of a cell.

        Args:
            things: figures and whatever else a notebook can show; texts are shown as they are printed.

        Returns:
            What the cell shows; None without widgets, where the things have been shown, or wait for an answer.
        """
        if self.widget is None:
            from IPython.display import display

            for thing in things if self.shown else (WITHHELD,):
                _ = print(thing) if isinstance(thing, str) else display(thing)
            return None
        page, show = withheld(things, "Lock an answer above, and what follows appears here.")
        if self.shown:
            show()
        else:
            self._hidden.append(show)
        return page

    def result(self) -> str:
        return self.answer

    async def _wait(self) -> str:
        """The answer, once it is locked or somebody would not wait."""
        while not self.shown:
            await asyncio.sleep(POLL_SECONDS)
        return self.answer

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        question = widgets.HTML(f"<div style='{FRAME.format(OTHER_COLOUR)}'><b>Predict.</b> {self._asked}</div>")
        style = {"description_width": "initial"}
        choices = widgets.RadioButtons(
            options=self.prediction.choices,
            index=None,
            style=style,
            layout={"width": "max-content", "max_width": "100%", "margin": "0 0 0 16px"},
        )
        lock = widgets.Button(description="Lock my answer", icon="lock", disabled=True, layout={"width": "160px"})
        skip = widgets.Button(description="Show without an answer", layout={"width": "200px"})
        outcome = widgets.HTML()
        choices.observe(lambda change: self.redraw(), "value")
        lock.on_click(lambda button: self.attempt(lambda: self.lock(choices.value)))
        skip.on_click(lambda button: self.skip())
        buttons = widgets.HBox([lock, skip], layout={"margin": "0 0 0 16px"})

        def draw() -> None:
            lock.disabled, choices.disabled = self.shown or choices.value is None, self.shown
            lock.button_style = "" if lock.disabled else "primary"
            see(buttons, not self.shown)
            say(outcome, self._outcome() if self.shown else "")

        return widgets.VBox([question, choices, buttons, outcome, self.alarm]), draw

    @property
    def _asked(self) -> str:
        return _prose(self.prediction.question)

    def _outcome(self) -> str:
        """The answer that was locked beside the right one, as HTML."""
        right = f"{html.escape(self.prediction.right)}. "
        first = "Right." if self.is_right else f"Not so: {right}" if self.answer else f"{right}({SKIPPED}) "
        colour = RIGHT_COLOUR if self.is_right else OTHER_COLOUR
        text = f"<b>{first}</b> {_prose(self.prediction.because)}<br><small>{HOLDS_FOR}</small>"
        return f"<div style='{FRAME.format(colour)}'>{text}</div>"

    def static(self) -> dict[str, Any]:
        prediction = self.prediction
        lines = [f"Predict: {prediction.question}", *(f"  – {choice}" for choice in prediction.choices)]
        rows = "".join(f"<li>{html.escape(choice)}</li>" for choice in prediction.choices)
        page = f"<b>Predict.</b> {self._asked}<ul style='margin:4px 0'>{rows}</ul>"
        if self.answers or self.shown:
            lines += [f"Answer: {prediction.right}. {prediction.because} {HOLDS_FOR}"]
            answer = f"<b>{html.escape(prediction.right)}</b>. {_prose(prediction.because)} <small>{HOLDS_FOR}</small>"
            page += f"<details><summary>Answer</summary>{answer}</details>"
        page = f"<div style='{FRAME.format(OTHER_COLOUR)}'>{page}</div>"
        return {"text/plain": "\n".join(lines), "text/html": page}


def withheld(things: Sequence[Any], text: str) -> tuple[Any, Callable[[], None]]:
    """A widget that says a text in place of things, and the function that shows them instead."""
    import ipywidgets as widgets

    waiting, output = widgets.HTML(f"<i>{html.escape(text)}</i>"), widgets.Output()

    def show() -> None:
        say(waiting, "")
        output.outputs = tuple(_output(thing) for thing in things)

    return widgets.VBox([waiting, output]), show


def _prose(text: str) -> str:
    """Text as HTML, with `code` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _output(thing: Any) -> dict[str, Any]:
    """What a notebook stores for a thing that is displayed, or for a text that is printed."""
    if isinstance(thing, str):
        return {"output_type": "stream", "name": "stdout", "text": f"{thing}\n"}
    if hasattr(thing, "to_plotly_json"):
        # Its own bundle depends on what plotly takes for the place where it is shown.
        bundle = {PLOTLY: json.loads(thing.to_json())}
    elif hasattr(thing, "_repr_mimebundle_"):
        bundle = thing._repr_mimebundle_()
    else:
        from IPython.core.formatters import DisplayFormatter

        bundle, _ = DisplayFormatter().format(thing)
    return {"output_type": "display_data", "data": bundle, "metadata": {}}
