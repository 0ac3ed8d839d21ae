"""Does the lab itself hold? The overfit ladder, the conventions of array processing, number formats and accumulation.

Each check runs the code that trains, and answers with a number, a reference and a sentence.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
