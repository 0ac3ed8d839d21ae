"""The widgets of the training panel: two big knobs, the run, break mode, the checkup's verdict, and the figure."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rislab.config import declarations
from rislab.faults.catalogue import FAMILIES
from rislab.faults.comparison import shows_in_training
from rislab.panels.base import cut_line, say, see
from rislab.panels.knobs import knob, labelled
from rislab.panels.run import Run, folders
from rislab.panels.training_plot import UNITS, fed_strip, figure_dict, side_charts_dict, table
from rislab.plots.diff import Diff
from rislab.plots.style import ERROR_COLOUR
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.records import epoch_line

CORRECT = "nothing: the correct loop"
# Between two texts of a run that goes on, and two strips: nobody reads faster, each text is a message of its own, and
# between two strips the curves alone are drawn.
TEXT_SECONDS = 0.5
SLOW_SECONDS = 1.0  # between two drawings of the side charts, which took two fifths of a redraw, and two tables
NOW = " · now: "  # in the tooltip of a button that can do nothing
ACCUMULATION = (1, 2, 4, 8, 16, 32, 64)
MORE = {  # field → label, width, options of knob()
    "preset": ("", "150px", {}),
    "lr": ("", "110px", {"step": 1e-3}),
    "clip_norm": ("clip", "110px", {"step": 0.1}),
    "curriculum": ("", "220px", {}),
    "blend": ("β", "260px", {"high": 0.95, "step": 0.05, "slider": True}),  # the last whole step
    "epochs": ("", "140px", {}),
    "validation": ("fresh scenes", "150px", {}),
    "seed": ("", "100px", {}),
}


class Pace:
    """When something is to be made anew: at once if it is about something else or nothing goes on, else now and then.

    Attributes:
        made: place for what was made last.

    Args:
        seconds: between two of them while something goes on.
    """

    def __init__(self, seconds: float) -> None:
        self.made: Any = None
        self._seconds = seconds
        self._about: object = None
        self._due = 0.0

    def is_due(self, about: object, *, running: bool) -> bool:
        """Whether it is time."""
        now = time.monotonic()
        if running and about == self._about and now < self._due:
            return False
        self._about, self._due = about, now + self._seconds
        return True


class TrainingView:
    """The widgets of a training panel, and what redraws them.

    Args:
        panel: the OverfitPanel whose methods the widgets call.
    """

    def __init__(self, panel: Any) -> None:
        import ipywidgets as widgets

        self.panel = panel
        precisions = declarations(OverfitConfig)["precision"].choices
        self.fields = {
            "precision": self._row_of_buttons("precision", precisions, "{}"),
            "accumulation_steps": self._row_of_buttons(
                "accumulation", self._allowed_steps(), "micro-batches a step: {}"
            ),
            "micro_batch": self._knob("micro_batch", "micro-batch", "150px"),
            **{name: self._knob(name, label, width, **how) for name, (label, width, how) in MORE.items()},
        }
        self.runs = labelled(widgets.Dropdown, "run", "230px")
        self.folders = labelled(widgets.Dropdown, "folder", "285px")
        self.unit = labelled(widgets.Dropdown, "x axis", "140px", options=[*UNITS], value="steps")
        self.fault = labelled(widgets.Dropdown, "break", "270px", options=[CORRECT, *_faults()])
        self.log, self.compare, self.diff = (
            widgets.ToggleButton(value=name == "log axis", description=name, tooltip=tip, layout={"width": "90px"})
            for name, tip in (
                ("log axis", "Logarithmic axis of the loss"),
                (
                    "compare",
                    "Show two runs alone, with their ratios: the last one, and the chosen one or the one before",
                ),
                ("show diff", "What the chosen fault changes in the source"),
            )
        )
        self.texts = {name: widgets.HTML() for name in ("batch", "line", "verdict", "source", "numbers")}
        self.texts["line"].layout = {"flex": "1 1 0", "min_width": "0"}
        self._paces = {name: Pace(TEXT_SECONDS) for name in ("line", "strip")}
        self._paces |= {name: Pace(SLOW_SECONDS) for name in ("numbers", "sides")}
        self.plot = panel.plot(figure_dict((), panel.state))
        self.side_charts = panel.plot(side_charts_dict(()))
        self.box = self._built()

    def _built(self) -> Any:
        import ipywidgets as widgets

        panel, observe = self.panel, self.panel.user_input.observe
        hold = widgets.Checkbox(value=True, indent=False, description="hold the batch", layout={"width": "130px"})
        hold.tooltip = "The micro-batch follows the accumulation, so that a step sees as many scenes as before"
        watched = widgets.Checkbox(value=panel.watched, indent=False, description="checkup", layout={"width": "90px"})
        watched.tooltip = "rislab.watch() beside the next run: it takes some time of each step, and changes nothing"
        for name, field in self.fields.items():
            field.value = vars(panel.config)[name]
            observe(field, partial(self._change, name))
        observe(hold, self._hold)
        observe(watched, partial(setattr, panel, "watched"))
        observe(self.fault, self._break)
        for field in (self.log, self.unit, self.compare, self.diff, self.runs):
            observe(field, lambda value: panel.redraw())
        press = self.buttons = self._buttons()
        control = [press[name] for name in ("Start", "Pause", "Step", "Stop", "Reset")]
        # No text may move a control while the mouse is pressed on it: each has a room of its own.
        precision, steps, micro_batch, *more = self.fields.values()
        precision.layout.width, steps.layout.width = "240px", "300px"
        batch = widgets.VBox([widgets.HBox([micro_batch, hold]), self.texts["batch"]])
        batch.layout = batch.children[0].layout = {"width": "430px", "overflow": "visible"}
        rows = {
            "control": [*control, self.texts["line"]],
            "knobs": [precision, steps, batch],
            "view": [self.fault, self.diff, self.compare, self.unit, self.log],
            "more": [*more, watched],
            "history": [self.runs, press["Remove"], press["Go on"], self.folders, press["Load"]],
        }
        wrapped = {"flex_flow": "row wrap", "overflow": "visible"}
        boxes = {name: widgets.HBox(row, layout=wrapped) for name, row in rows.items()}
        boxes["control"].layout.flex_flow = "row nowrap"
        for button in control:
            button.layout.flex = "0 0 auto"
        for name, text, tip in (
            ("more", "knobs", "All other knobs"),
            ("history", "runs", "Runs on the plot, and on disk"),
        ):
            fold = widgets.ToggleButton(description=text, icon="bars", tooltip=tip, layout={"width": "80px"})
            boxes["view"].children = (*boxes["view"].children, fold)
            see(boxes[name], False)
            observe(fold, partial(see, boxes[name]))
        shown = [boxes["control"], boxes["knobs"], boxes["view"], boxes["more"], boxes["history"], panel.alarm]
        self.texts["source"].layout = {"flex": "0 0 62%", "display": "none"}
        beside = widgets.HBox([self.texts["source"], self.texts["verdict"]])
        # In a narrow window the side charts stand below: the title would be under the buttons of the plot.
        self.plot.layout = {"flex": "5 1 520px", "min_width": "0"}
        self.side_charts.layout = {"flex": "1 1 280px", "min_width": "0"}
        plots = widgets.HBox([self.plot, self.side_charts], layout=wrapped)
        return widgets.VBox([*shown, beside, plots, self.texts["numbers"]], layout={"overflow": "visible"})

    def draw(self) -> None:
        """Show the present state; the figure follows when its page is ready for it, the texts at once."""
        panel = self.panel
        if list(self.runs.options) != [run.name for run in panel.runs]:
            self._offer()
        state = panel.activity
        if self._paces["line"].is_due((state, len(panel.runs)), running=state == "running"):
            last = panel.runs[-1].history.last if panel.runs else None
            epoch = "" if last is None else html.escape(epoch_line(last))
            self.texts["line"].value = cut_line(f"<b>{state}</b> {epoch}", 2)
            self.texts["verdict"].value = self._verdict()
        self._enable()
        self.texts["batch"].value = cut_line(html.escape(panel.batch_line()))
        steps, allowed = self.fields["accumulation_steps"], self._allowed_steps()
        if tuple(steps.options) != allowed:
            steps.options = allowed
        self.fields["micro_batch"].limit(1, panel.config.scenes)
        for name, field in self.fields.items():
            field.value = vars(panel.config)[name]
        self.fault.value = CORRECT if panel.fault is None else panel.fault.name
        self.diff.layout.visibility = "hidden" if panel.fault is None else "visible"
        say(self.texts["source"], self._source())
        # A page that draws a last figure of the run would be late to say that it has stopped.
        if state != "stopping":
            self.plot.update(self._figure)
            if self._paces["sides"].is_due(
                [*(run.name for run in panel.runs), state, self.unit.value], running=state == "running"
            ):
                self.side_charts.update(lambda: side_charts_dict(panel.runs[-1:], unit=self.unit.value))
        if panel.state not in ("running", "waiting"):
            self.plot.flush()
            self.side_charts.flush()

    def shown_runs(self) -> list[Run]:
        """The runs on the figure: all of them, or the two that are compared."""
        runs = self.panel.runs
        if not self.compare.value or len(runs) < 2:
            return runs
        chosen = self.runs.index if self.runs.index is not None and self.runs.index < len(runs) - 1 else -2
        return [runs[chosen], runs[-1]]

    def _figure(self) -> dict[str, Any]:
        runs = self.shown_runs()
        about, running = [(run.name, run.state) for run in runs], self.panel.state == "running"
        if self._paces["numbers"].is_due(about, running=running):
            self.texts["numbers"].value = table(runs)
        strip = self._paces["strip"]
        if strip.is_due(about, running=running):
            strip.made = self.panel.title(), fed_strip(runs[-1] if runs else None)
        return figure_dict(runs, *strip.made, log=self.log.value, unit=self.unit.value)

    def _enable(self) -> None:
        """A button that could do nothing now cannot be pressed, and its tooltip says why."""
        panel = self.panel
        able = panel.buttons() | ({"Load"} if self.folders.options else set())
        for name, button in self.buttons.items():
            button.disabled = name not in able
            tooltip = button.tooltip.partition(NOW)[0]
            button.tooltip = f"{tooltip}{NOW}{panel.activity}" if button.disabled else tooltip

    def _source(self) -> str:
        """The diff of the chosen fault, and which run has it, as HTML; "" if it is not to be seen."""
        panel = self.panel
        if panel.fault is None or not self.diff.value:
            return ""
        last = panel.runs[-1] if panel.runs else None
        here = last is not None and last.fault is not None and last.fault.name == panel.fault.name
        whose = html.escape(f"{panel.fault.name}: edit of {last.name if last and here else 'the next run'}")
        return f"<b>{whose}</b>{Diff(panel.fault).box('170px')}"

    def _verdict(self) -> str:
        """The checkup's summary, and its faults and warnings with their numbers and what to change, as HTML."""
        panel = self.panel
        if not panel.verdict():
            return ""
        wrong = panel.findings().of("warning")
        colour = f";color:{ERROR_COLOUR}" if wrong else ""
        # Beside it may stand the diff of a fault that the next run will have.
        head = f"<b style='{colour}'>checkup of {panel.runs[-1].name}: {html.escape(panel.verdict())}</b>"
        lines = [f"<div role='status' style='line-height:1.35'>{head}"]
        lines += [
            f"<b>{html.escape(one.name)}</b>: {html.escape(one.evidence)}."
            f"{f' <i>Fix:</i> {html.escape(one.fix)}' if one.fix else ''}"
            for one in wrong[:3]
        ]
        return "<br>".join(lines) + "</div>"

    def _allowed_steps(self) -> tuple[int, ...]:
        config = self.panel.config
        batch = config.accumulation_steps * config.micro_batch
        able = {steps for steps in ACCUMULATION if not self.panel.hold_batch or batch % steps == 0}
        return tuple(sorted({*able, config.accumulation_steps}))

    def _offer(self) -> None:
        """Bring the two lists up to date: the runs on the plot, and the folders of those that are not."""
        panel = self.panel
        names = [run.name for run in panel.runs]
        if list(self.runs.options) != names:
            self.runs.options = names
            self.runs.index = len(names) - 1 if names else None
        if panel.folder is not None:
            shown = {run.folder for run in panel.runs}
            names = [name for name in folders(panel.folder) if panel.folder / name not in shown]
            if list(self.folders.options) != names:
                self.folders.options = names
                self.folders.index = 0 if names else None

    def _row_of_buttons(self, name: str, options: Sequence[Any], tip: str) -> Any:
        import ipywidgets as widgets

        style = {"button_width": "auto", "description_width": "initial", "font_weight": "bold"}
        tips = [tip.format(option) for option in options]
        return widgets.ToggleButtons(
            options=options, description=name, tooltips=tips, style=style, layout={"width": "auto"}
        )

    def _knob(self, name: str, label: str, width: str, **options: Any) -> Any:
        panel = self.panel

        def check(value: Any) -> object:
            return panel.changed(**{name: value})

        return knob(OverfitConfig, name, vars(panel.config)[name], label=label, width=width, check=check, **options)

    def _buttons(self) -> dict[str, Any]:
        import ipywidgets as widgets

        panel = self.panel
        calls: dict[str, tuple[str, str, Callable[[], object]]] = {
            "Start": ("play", "Begin a run with these knobs, or go on after a pause", panel.start),
            "Pause": ("pause", "Wait after the window in progress", panel.pause),
            "Step": ("step-forward", "One window, then wait", panel.step),
            "Stop": ("stop", "End the run after the window in progress", panel.stop),
            "Reset": ("refresh", "Stop, and take all runs off the plot", panel.reset),
            "Remove": ("trash", "Take the chosen run off the plot; its folder stays", self._with_run(panel.remove)),
            "Go on": ("forward", "Let the chosen run go on where it was stopped", self._with_run(panel.go_on)),
            "Load": ("folder-open", "Put the run of this folder on the plot", self._load),
        }
        made = {}
        for name, (icon, tooltip, call) in calls.items():
            width = {"width": "96px" if name == "Remove" else "86px"}
            made[name] = widgets.Button(description=name, icon=icon, tooltip=tooltip, layout=width)
            made[name].on_click(self._presses(call))
        return made

    def _presses(self, call: Callable[[], object]) -> Callable[[Any], None]:
        def pressed(button: Any) -> None:
            call()
            self._offer()
            self.panel.redraw()

        return pressed

    def _change(self, name: str, value: Any) -> None:
        self.panel.change(**{name: value})

    def _hold(self, held: bool) -> None:
        self.panel.hold_batch = held
        self.panel.redraw()

    def _break(self, name: str) -> None:
        self.diff.value = name != CORRECT
        self.panel.break_with("" if name == CORRECT else name)

    def _with_run(self, call: Callable[[int], object]) -> Callable[[], object]:
        """A call about the run that is chosen, if there is one."""
        return lambda: call(self.runs.index) if self.runs.index is not None and self.panel.runs else None

    def _load(self) -> None:
        if self.panel.folder is not None and self.folders.value is not None:
            self.panel.load(self.panel.folder / self.folders.value)


def _faults() -> list[str]:
    """Names of the faults that a training shows, family by family."""
    return [fault.name for family in FAMILIES.values() for fault in family if shows_in_training(fault)]
