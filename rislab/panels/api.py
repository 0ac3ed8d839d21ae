"""Live panels for notebooks: `panel = rislab.panels.overfit(config)`, and in the next cell `records = await panel`.

A run is one worker thread that drains a stream of records; buttons only set flags; awaiting neither blocks the kernel
nor loses an exception. Without widgets (RISLAB_LIVE=0, as in reports, or no anywidget) the same cells run to the end.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rislab.config import Config
from rislab.errors import InputError, error_text
from rislab.faults.quiz import COUNT, SEED
from rislab.panels.page import page_folder
from rislab.panels.plain_figures import show_figures_at_once
from rislab.panels.run import OnEpoch
from rislab.panels.training_panel import OverfitPanel
from rislab.panels.unread_messages import read_unread_messages
from rislab.plots.style import theme_css
from rislab.sanity.overfit_config import OverfitConfig

if TYPE_CHECKING:
    from rislab.faults.story import StoryConfig
    from rislab.model.network import CovarianceNet
    from rislab.music.map_history import MapHistory
    from rislab.music.scene_view import SceneSettings
    from rislab.panels.faults_panel import FaultPanel
    from rislab.panels.lesson_panel import Lesson
    from rislab.panels.map_history_panel import MapHistoryPanel
    from rislab.panels.music_panel import MusicPanel
    from rislab.panels.precision_panel import PrecisionPanel
    from rislab.panels.quiz_panel import QuizPanel
    from rislab.panels.story_panel import StoryPanel
    from rislab.panels.tuning_panel import TuningPanel
    from rislab.sanity.precision import PrecisionConfig
    from rislab.tuning.tuning_config import TuningConfig

RUNS = "runs"  # beside the notebook
THEME = Path(__file__).parent / "static" / "theme.js"

Kind = TypeVar("Kind")


def overfit(
    config: OverfitConfig | None = None,
    *,
    folder: Path | str | None = RUNS,
    on_epoch: OnEpoch = lambda model, epoch: None,
) -> OverfitPanel:
    """Start training the full set of the overfit ladder; show it as the last value of a cell, await it in the next.

    Where `rislab app` shows it, it goes on with the run of the page that is loaded again.

    Args:
        config: see OverfitConfig; its defaults if None.
        folder: where live runs get a run folder each, so that they outlive the kernel; None keeps them in memory, as
            headless runs always are.
        on_epoch: called in the thread of a run with its network and 0 before the first window, then with the number of
            each epoch that has ended.

    Returns:
        The panel of the training: the last value of a cell shows it.

    Raises:
        InputError: for anything that is not an OverfitConfig.
    """
    chosen = _chosen("config", config, OverfitConfig)
    live = is_live()
    parent = Path(folder) if folder is not None and live else None
    page = None if parent is None else page_folder(parent)
    return OverfitPanel(chosen, live=live, folder=page or parent, on_epoch=on_epoch, resume=page is not None)


def music(
    settings: SceneSettings | None = None, *, model: CovarianceNet | None = None, hide: Sequence[str] = ()
) -> MusicPanel:
    """The panel on one scene: drag its sources, turn its knobs, and watch the maps follow.

    Args:
        settings: where to begin; see SceneSettings, its defaults if None.
        model: network of the learned covariance; the shipped one for the surface of the settings if None.
        hide: what is left out: controls by their names, such as "seed", or "scene", "cut", "table", "truth" (rings,
            errors, and the knobs of the places), "estimates", "bound", "drag".

    Raises:
        InputError: for anything that is not a SceneSettings, and for a name that is neither.
    """
    from rislab.model import pretrained
    from rislab.music.scene_view import SceneSettings
    from rislab.panels.music_panel import MusicPanel

    chosen = _chosen("settings", settings, SceneSettings)
    return MusicPanel(chosen, model or pretrained.load("shipped", chosen.preset)[0], live=is_live(), hide=hide)


def map_history(history: MapHistory) -> MapHistoryPanel:
    """The MUSIC map of a scene beside the run that trains: the newest, or by slider that of any epoch.

    Args:
        history: a run fills it by `panels.overfit(config, on_epoch=history.take_snapshot)`.

    Raises:
        InputError: for anything that is not a MapHistory.
    """
    from rislab.music.map_history import MapHistory
    from rislab.panels.map_history_panel import MapHistoryPanel

    return MapHistoryPanel(_chosen("history", history, MapHistory), live=is_live())


def precision(config: PrecisionConfig | None = None) -> PrecisionPanel:
    """Start filling the table accumulation × number format; show it, await it in the next cell for the cells.

    Args:
        config: see PrecisionConfig; its defaults if None.

    Returns:
        The panel of the precision table: the last value of a cell shows it.

    Raises:
        InputError: for anything that is not a PrecisionConfig.
    """
    from rislab.panels.precision_panel import PrecisionPanel
    from rislab.sanity.precision import PrecisionConfig

    return PrecisionPanel(_chosen("config", config, PrecisionConfig), live=is_live())


def fault(name: str = "never divided", *, epochs: int = 4) -> FaultPanel:
    """Start training a fault beside the correct loop; show it, await it in the next cell for the FaultReport.

    Args:
        name: of a fault of the catalogue.
        epochs: of 84 scenes, in three windows each.

    Returns:
        The panel of the fault: the last value of a cell shows it.

    Raises:
        InputError: for an unknown fault, or a number of epochs out of range.
    """
    from rislab.faults.comparison import ComparisonConfig
    from rislab.panels.faults_panel import FaultPanel

    return FaultPanel(ComparisonConfig(fault=name, epochs=epochs), live=is_live())


def quiz(seed: int = SEED, count: int = COUNT) -> QuizPanel:
    """Hidden faults one by one, each with what it shows and four names; the same seed asks the same everywhere.

    Args:
        seed: see rislab.faults.quiz.questions().
        count: of questions.

    Returns:
        The panel of the quiz: the last value of a cell shows it.

    Raises:
        InputError: for a seed or a count out of range.
    """
    from rislab.panels.quiz_panel import QuizPanel

    return QuizPanel(seed, count, live=is_live())


def lesson(notebook: str, *, answers: bool = True, quiz_seed: int = SEED) -> Lesson:
    """The questions of a notebook: `predict()` before a figure, `check()` below an exercise, and the score.

    Args:
        notebook: name of its report.
        answers: without widgets, whether predictions show their answers; False in copies for students.
        quiz_seed: of the quiz whose names are checked.

    Raises:
        InputError: for a notebook that asks nothing.
    """
    from rislab.panels.lesson_panel import Lesson

    return Lesson(notebook, live=is_live(), answers=answers, quiz_seed=quiz_seed)


def story(config: StoryConfig | None = None) -> StoryPanel:
    """Start replaying the fault of a story with the extra faults that are switched on; await it for the Replay.

    Args:
        config: see StoryConfig, which names the first faults; its defaults if None.

    Returns:
        The panel of the replay: the last value of a cell shows it.

    Raises:
        InputError: for anything that is not a StoryConfig.
    """
    from rislab.faults.story import StoryConfig
    from rislab.panels.story_panel import StoryPanel

    return StoryPanel(_chosen("config", config, StoryConfig), live=is_live())


def tuning(
    config: TuningConfig | None = None,
    *,
    folder: Path | str | None = f"{RUNS}/tuning",
    workers: int | None = None,
    skip_ladder: bool = False,
    confirm: int = 5,
) -> TuningPanel:
    """Start a hyper-parameter search, or go on with that of the folder; await it for its SearchProgress.

    Args:
        config: see TuningConfig; its defaults if None.
        folder: where live searches are stored, each configuration in a folder of its own; None, and headless searches,
            as long as the panel lives.
        workers: see rislab.tuning.search.run_search().
        skip_ladder: the same.
        confirm: the same.

    Returns:
        The panel of the search: the last value of a cell shows it.

    Raises:
        InputError: for anything that is not a TuningConfig.
    """
    from rislab.panels.tuning_panel import TuningPanel
    from rislab.tuning.tuning_config import TuningConfig

    chosen = _chosen("config", config, TuningConfig)
    live = is_live()
    parent = Path(folder) / chosen.digest() if folder is not None and live else None
    return TuningPanel(chosen, parent, live=live, workers=workers, skip_ladder=skip_ladder, confirm=confirm)


def _chosen(name: str, value: object, kind: type[Kind]) -> Kind:
    """The value, or the defaults of a configuration if it is None; raises InputError unless it is of this kind."""
    if value is None and issubclass(kind, Config):
        return kind()
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise InputError(f"{name} is a {type(value).__name__}; allowed: {article} {kind.__name__}")
    return value


def is_live() -> bool:
    """Whether panels make widgets: not if RISLAB_LIVE is 0, nor where a package for them is missing (which is said).

    Where they do, plain figures on the same page follow its theme too, and no message of the page stays unread.
    """
    if importlib.util.find_spec("IPython") is not None:
        show_figures_at_once()
    if os.environ.get("RISLAB_LIVE") == "0":
        return False
    able = widgets()
    if able != "yes":
        print(f"live panels: {able}")
        return False
    from IPython import get_ipython
    from IPython.display import HTML, display

    from rislab.panels.given_up_views import given_up_views

    read_unread_messages()
    given_up_views()
    if get_ipython() is not None:
        display(HTML(f"<script>({THEME.read_text(encoding='utf-8')})({json.dumps(theme_css())})</script>"))
    return True


def widgets() -> str:
    """Whether live panels can render here, and if not, which package is missing, or cannot be imported."""
    names = ("ipywidgets", "anywidget", "plotly")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        return f"no: {', '.join(missing)} not installed; figures are static"
    for name in names:
        try:
            importlib.import_module(name)
        # Of a package that does not fit the others anything may come.
        except Exception as error:
            return f"no: {name} cannot be imported ({type(error).__name__}: {error_text(error)}); figures are static"
    return "yes"
