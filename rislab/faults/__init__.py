"""Bugs as edits of the real source, and the lessons made of them.

The catalogue is data; a patched package shows what an edit does, beside the correct loop.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
