"""Scenes: geometry, configuration, simulation, and the true and the sample covariance.

Everything here is drawn or computed from a configuration and a seed; nothing estimates, learns or draws a figure.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
