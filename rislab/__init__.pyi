from collections.abc import Callable
from typing import Any

from . import checkup as checkup
from . import cli as cli
from . import data as data
from . import faults as faults
from . import model as model
from . import music as music
from . import panels as panels
from . import plots as plots
from . import reports as reports
from . import sanity as sanity
from . import training as training
from . import tuning as tuning
from .checkup.findings import Finding as Finding
from .checkup.findings import Findings as Findings
from .checkup.loop_watch import watch as watch
from .checkup.notebook import load_ipython_extension as load_ipython_extension
from .checkup.probes.suite import probe as probe
from .data.geometry import ArrayGeometry as ArrayGeometry
from .data.grid import Grid as Grid
from .data.measurement import Measurement as Measurement
from .data.scene_config import SceneConfig as SceneConfig
from .data.scenes import SceneBatch as SceneBatch
from .data.simulation import simulate as simulate
from .errors import InputError as InputError
from .model.network import CovarianceNet as CovarianceNet
from .music.crb import Bound as Bound
from .music.crb import crb as crb
from .music.estimate import Estimate as Estimate
from .music.likelihood import polish as polish
from .music.metrics import Matching as Matching
from .music.metrics import match as match
from .music.model_order import model_order as model_order
from .music.sparse import sparse as sparse
from .music.spectra import Spectrum as Spectrum
from .music.spectra import bartlett_spectrum as bartlett_spectrum
from .music.spectra import music_spectrum as music_spectrum
from .music.spectra import mvdr_spectrum as mvdr_spectrum
from .training.config import TrainConfig as TrainConfig
from .training.loop import evaluate as evaluate
from .training.loop import fit as fit
from .training.records import EpochRecord as EpochRecord
from .training.records import Record as Record
from .training.records import StepRecord as StepRecord
from .training.state import TrainState as TrainState

__version__: str
ROOMS: dict[str, tuple[str, ...]]

def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]: ...
