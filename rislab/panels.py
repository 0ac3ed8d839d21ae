"""Live panels for notebooks: `panel = rislab.panels.overfit(config)`, and in the next cell `records = await panel`.

A run is one worker thread that drains a stream of records; buttons only set flags; awaiting neither blocks the kernel
nor loses an exception. Without widgets (RISLAB_LIVE=0, as in reports, or no anywidget) the same cells run to the end.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rislab import machine
from rislab.errors import InputError
from rislab.overfit import OverfitConfig
from rislab.training_panel import OverfitPanel

if TYPE_CHECKING:
    from rislab.explore import View
    from rislab.model import CovarianceNet
    from rislab.music_panel import MusicPanel


def overfit(config: OverfitConfig | None = None) -> OverfitPanel:
    """Start training the whole set of the overfit ladder; show it as the last value of a cell, await it in the next.

    Args:
        config: see OverfitConfig; its defaults if None.

    Raises:
        InputError: for anything that is not an OverfitConfig.
    """
    chosen = OverfitConfig() if config is None else config
    if not isinstance(chosen, OverfitConfig):
        raise InputError(f"config is a {type(chosen).__name__}; allowed: an OverfitConfig")
    return OverfitPanel(chosen, live=is_live())


def music(view: View | None = None, *, model: CovarianceNet | None = None) -> MusicPanel:
    """The panel on one scene: drag its sources, turn its knobs, and watch the spectra follow.

    Args:
        view: where to begin; the default View if None. model: network of the learned covariance.

    Raises:
        InputError: for anything that is not a View.
    """
    from rislab.explore import View
    from rislab.music_panel import MusicPanel

    chosen = View() if view is None else view
    if not isinstance(chosen, View):
        raise InputError(f"view is a {type(chosen).__name__}; allowed: a View")
    return MusicPanel(chosen, model, live=is_live())


def is_live() -> bool:
    """Whether panels make widgets: not if RISLAB_LIVE is 0, nor where a package for them is missing (which is said)."""
    if os.environ.get("RISLAB_LIVE") == "0":
        return False
    able = machine.widgets()
    if able != "yes":
        print(f"live panels: {able}")
    return able == "yes"
