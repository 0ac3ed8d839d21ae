"""Live panels for notebooks: one worker thread each, knobs, and a plot that is redrawn.

`panel = rislab.panels.overfit(config)` shows one, and `records = await panel` in the next cell waits for its result.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
