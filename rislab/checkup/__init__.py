"""Watch any PyTorch training loop from outside, and say what is wrong with it.

This room stands alone: it imports torch and rislab.errors, and holds no word of radio or of the other rooms.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
