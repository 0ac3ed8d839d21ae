"""Hyper-parameter search on a loop that passed the overfit ladder.

Optuna proposes values and stores trials; objective, space and what may be concluded from few trials are defined here.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
