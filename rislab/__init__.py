"""rislab: is this training loop telling the truth?

A lab on a real problem, localising radio sources through a reconfigurable intelligent surface:

    >>> import rislab
    >>> scenes = rislab.simulate(rislab.SceneConfig.preset("classroom"), 64, seed=0)
    >>> model = rislab.CovarianceNet.build(scenes.config)
    >>> records = list(rislab.fit(model, scenes, rislab.TrainConfig(epochs=2)))
    >>> [type(record).__name__ for record in records]
    ['StepRecord', 'EpochRecord', 'StepRecord', 'EpochRecord']

Figures, panels, reports and the overfit ladder load when first used, as rislab.figures, rislab.panels, rislab.reports
and rislab.overfit.
"""

from __future__ import annotations

import importlib
from typing import Any

from rislab.bounds import Bound, bound
from rislab.data import SceneBatch, SceneConfig, simulate
from rislab.errors import InputError
from rislab.estimates import Estimate
from rislab.geometry import Array, Grid
from rislab.likelihood import polish
from rislab.metrics import Matching, match
from rislab.model import CovarianceNet
from rislab.music import Spectrum, bartlett, music, mvdr
from rislab.records import EpochRecord, Record, StepRecord
from rislab.sparse import order, sparse
from rislab.training import TrainConfig, TrainState, evaluate, fit

__version__ = "0.1.0"

__all__ = [
    "Array",
    "Bound",
    "CovarianceNet",
    "EpochRecord",
    "Estimate",
    "Grid",
    "InputError",
    "Matching",
    "Record",
    "SceneBatch",
    "SceneConfig",
    "Spectrum",
    "StepRecord",
    "TrainConfig",
    "TrainState",
    "bartlett",
    "bound",
    "evaluate",
    "fit",
    "match",
    "music",
    "mvdr",
    "order",
    "polish",
    "simulate",
    "sparse",
]

# Loaded when first used.
LAZY = (
    "autopsy",
    "checkup",
    "clinic",
    "clinic_figures",
    "conventions",
    "exercises",
    "faults",
    "figures",
    "film",
    "film_panel",
    "localise",
    "loops",
    "maps",
    "overfit",
    "panels",
    "precision",
    "precision_panel",
    "quiz",
    "reports",
    "runs",
    "story",
    "story_panel",
)


# Names of functions that load their module when first used.
WITHIN = {"watch": "checkup", "probe": "probes", "Finding": "finding"}


def __getattr__(name: str) -> Any:
    if name in WITHIN:
        return vars(importlib.import_module(f"rislab.{WITHIN[name]}"))[name]
    if name in LAZY:
        return importlib.import_module(f"rislab.{name}")
    raise AttributeError(f"module 'rislab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *LAZY, *WITHIN])
