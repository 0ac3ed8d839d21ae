"""The story on the screen: a fault and extra faults to be switched on and off, and what each combination reports."""

from __future__ import annotations

import html
from collections.abc import Callable, Generator, Sequence
from typing import Any

from rislab.faults.story import EXTRA_FAULTS, LOOP_VARIANTS, Replay, StoryConfig, replay
from rislab.panels.base import RequestPanel
from rislab.panels.knobs import labelled
from rislab.plots.story import log_excerpt, replay_figure_dict, replay_summary

Combination = tuple[str, tuple[str, ...]]  # a loop variant and names of extra faults


class StoryPanel(RequestPanel[Combination, Replay]):
    """A fault to be chosen and extra faults to be switched on and off; awaiting it gives the Replay it shows.

    Attributes:
        chosen: the combination that was chosen last.
        shown: the last replay; None before the first.

    Args:
        config: whose `short` replays are made; its fault and its extra faults are the first, and start at once.
        live: whether to make widgets.
    """

    def __init__(self, config: StoryConfig, *, live: bool) -> None:
        self.config = config.short
        self.chosen: Combination = (config.fault, tuple(config.extra_faults))
        self.shown: Replay | None = None
        super().__init__(live=live)
        self.submit(self.chosen)

    def choose(self, fault: str, extra_faults: Sequence[str]) -> None:
        """Replay another combination, in a thread of the panel's own; of several that wait the newest only."""
        self.chosen = (fault, tuple(extra_faults))
        self.submit(self.chosen)

    def work(self, request: Combination) -> Generator[object]:
        yield request
        self.shown = replay(self.config, *request, curriculum="three-phase")

    def result(self) -> Replay:
        if self.shown is None:
            raise RuntimeError("nothing was replayed")
        return self.shown

    def static(self) -> dict[str, Any]:
        fault, extra_faults = self.chosen
        return {"text/plain": f"replaying {fault} with {', '.join(extra_faults) or 'no extra fault'}; await the panel"}

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        fault, extra_faults = self.chosen
        menu = labelled(widgets.Dropdown, "fault", "230px", options=[*LOOP_VARIANTS], value=fault)
        line = {"width": "max-content", "height": "24px", "margin": "0"}
        boxes = {
            name: widgets.Checkbox(description=name, value=name in extra_faults, indent=False, layout=line)
            for name in EXTRA_FAULTS
        }
        state, log, summary = widgets.HTML(), widgets.HTML(), widgets.HTML()
        plot = self.plot(replay_figure_dict(None, "replaying …"))

        def choose(value: object) -> None:
            self.choose(menu.value, [name for name, box in boxes.items() if box.value])

        def draw() -> None:
            working, shown = self.task.running, None if self.error else self.shown
            state.value = f"<i>replaying {self.config.epochs} epochs …</i>" if working else ""
            if working:
                return
            plot.update(replay_figure_dict(shown, "" if shown else "nothing to show"))
            excerpt = html.escape(log_excerpt(shown)) if shown else ""
            log.value = excerpt and f"<pre style='margin:0;line-height:1.3'>{excerpt}</pre>"
            sentence = replay_summary(shown) if shown else ""
            summary.value = sentence and f"<div style='line-height:1.35;font-size:13px'>{sentence}</div>"
            plot.flush()

        for field in (menu, *boxes.values()):
            self.user_input.observe(field, choose)
        columns = {"grid_template_columns": "repeat(3, max-content)", "grid_gap": "0 22px", "overflow": "visible"}
        grid = widgets.GridBox([*boxes.values()], layout=columns)
        return widgets.VBox([widgets.HBox([menu, state]), grid, log, summary, self.alarm, plot]), draw
