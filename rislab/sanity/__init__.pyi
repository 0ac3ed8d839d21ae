from .overfit import OverfitConfig as OverfitConfig
from .overfit import ladder as ladder
from .precision import PrecisionConfig as PrecisionConfig
