from .geometry import ArrayGeometry as ArrayGeometry
from .grid import Grid as Grid
from .measurement import Measurement as Measurement
from .scene_config import SceneConfig as SceneConfig
from .scenes import SceneBatch as SceneBatch
from .simulation import simulate as simulate
