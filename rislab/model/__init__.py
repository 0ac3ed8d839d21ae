"""Networks that predict the covariance of a scene, the terms of their loss, and weights that come with the lab.

A model is called on a batch and returns a factor of the covariance; how it is trained stands in the next room.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
