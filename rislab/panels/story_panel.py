"""The story on the screen: its figures, and the panel that switches accomplices on and off beside a culprit."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from rislab.errors import InputError
from rislab.faults.story import EXTRA_FAULTS, LOOP_VARIANTS, Replay, StoryConfig, replay
from rislab.panels.background_task import POLL_SECONDS
from rislab.plots.story import log_excerpt, replay_figure_dict, replay_summary
from rislab.plots.style import ERROR_COLOUR, template


class StoryPanel:
    """A culprit to be chosen and accomplices to be switched on and off; awaiting it gives the Replay it shows.

    Args:
        config: whose `short` replays are made; its culprit and accomplices are the first, and start at once.
        live: whether to make widgets.
    """

    def __init__(self, config: StoryConfig, *, live: bool) -> None:
        self.config = config.short
        self.chosen: tuple[str, tuple[str, ...]] = (config.fault, tuple(config.extra_faults))
        self.shown: Replay | None = None
        self.error: Exception | None = None
        self.drawing_error: Exception | None = None
        self.widget: Any = None
        self._newest = threading.Condition()
        self._wanted: tuple[str, tuple[str, ...]] | None = self.chosen
        self._busy = False
        # OpenMP counts threads per thread: the worker would not inherit what the notebook has set.
        self._threads = torch.get_num_threads()
        self._draw: Callable[[], None] = lambda: None
        if live:
            self.widget, self._draw = _widget(self)
        threading.Thread(target=self._work, name="rislab story", daemon=True).start()

    def choose(self, culprit: str, accomplices: Sequence[str]) -> None:
        """Replay another combination, in a thread of the panel's own; of several that wait the newest only."""
        with self._newest:
            self.chosen = self._wanted = (culprit, tuple(accomplices))
            self._newest.notify_all()
        self._show()

    @property
    def settled(self) -> bool:
        """Whether what was chosen last has been replayed, or has failed."""
        with self._newest:
            return self._wanted is None and not self._busy

    def __await__(self) -> Generator[Any, None, Replay]:
        return self._wait().__await__()

    async def _wait(self) -> Replay:
        try:
            while not self.settled:
                await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        if self.error is not None:
            raise self.error
        assert self.shown is not None
        return self.shown

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        while True:
            with self._newest:
                self._newest.wait_for(lambda: self._wanted is not None)
                wanted, self._wanted, self._busy = self._wanted, None, True
            self._show()
            try:
                if wanted is not None:
                    self.shown, self.error = replay(self.config, *wanted, curriculum="three-phase"), None
            except Exception as error:  # shown under the boxes, and raised again where the panel is awaited
                self.shown, self.error = None, error
            with self._newest:
                self._busy = False
                self._newest.notify_all()
            self._show()

    def _show(self) -> None:
        if self.drawing_error is None:
            try:
                self._draw()
            except Exception as error:  # a drawing fault must not end the replays; the figures below are static
                self.drawing_error = error

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self.widget is not None:
            return self.widget._repr_mimebundle_(**options)
        culprit, accomplices = self.chosen
        return {"text/plain": f"replaying {culprit} with {', '.join(accomplices) or 'no accomplice'}; await the panel"}


def _widget(panel: StoryPanel) -> tuple[Any, Callable[[], None]]:
    """Culprit, boxes, log, verdict and plot, and the function that shows the panel's replay in them."""
    import ipywidgets as widgets

    from rislab.panels.plot_widget import PlotWidget

    culprit, accomplices = panel.chosen
    wide = {"description_width": "initial"}
    menu = widgets.Dropdown(
        description="fault", options=[*LOOP_VARIANTS], value=culprit, style=wide, layout={"width": "230px"}
    )
    line = {"width": "max-content", "height": "24px", "margin": "0"}
    boxes = {
        name: widgets.Checkbox(description=name, value=name in accomplices, indent=False, layout=line)
        for name in EXTRA_FAULTS
    }
    state = widgets.HTML()
    log, said = widgets.HTML(), widgets.HTML()
    plot = PlotWidget(replay_figure_dict(None, "replaying …"), {theme: template(theme) for theme in ("light", "dark")})

    def changed(change: Any) -> None:
        panel.choose(menu.value, [name for name, box in boxes.items() if box.value])

    def draw() -> None:
        told, settled = panel.shown, panel.settled
        state.value = "" if settled else f"<i>replaying {panel.config.epochs} epochs …</i>"
        if not settled:
            return
        if told is not None:
            plot.update(replay_figure_dict(told))
            log.value = f"<pre style='margin:0;line-height:1.3'>{html.escape(log_excerpt(told))}</pre>"
            said.value = f"<div style='line-height:1.35;font-size:13px'>{replay_summary(told)}</div>"
        else:
            kind = "" if isinstance(panel.error, InputError) else f"{type(panel.error).__name__}: "
            plot.update(replay_figure_dict(None, "nothing to show"))
            log.value = ""
            alarm = f"line-height:1.35;color:{ERROR_COLOUR}"
            said.value = f"<div style='{alarm}'><b>{html.escape(f'{kind}{panel.error}')}</b></div>"
        plot.flush()

    for box in (menu, *boxes.values()):
        box.observe(changed, "value")
    grid = widgets.GridBox(
        [*boxes.values()], layout={"grid_template_columns": "repeat(3, max-content)", "grid_gap": "0 22px"}
    )
    return widgets.VBox([widgets.HBox([menu, state]), grid, log, said, plot]), draw
