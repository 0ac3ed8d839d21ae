from .overfit import OverfitConfig as OverfitConfig
from .overfit_ladder import ladder as ladder
from .precision import PrecisionConfig as PrecisionConfig
