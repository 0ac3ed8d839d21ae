"""Results in, plotly figures out, with the words and tables that stand beside them.

Pure functions: no widget, no thread, no file.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
