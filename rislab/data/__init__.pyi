from .geometry import ArrayGeometry as ArrayGeometry
from .grid import Grid as Grid
from .scenes import SceneBatch as SceneBatch
from .scenes import SceneConfig as SceneConfig
from .simulation import simulate as simulate
