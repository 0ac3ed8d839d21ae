from .config import TrainConfig as TrainConfig
from .loop import evaluate as evaluate
from .loop import fit as fit
from .records import EpochRecord as EpochRecord
from .records import Record as Record
from .records import StepRecord as StepRecord
from .state import TrainState as TrainState
