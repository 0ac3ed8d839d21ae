from .study import TuningConfig as TuningConfig
