"""Results in, plotly figures out, with the words and tables that stand beside them.

Pure functions: no widget, no thread, no file. The scene and its maps are drawn by a script of their own, from what
`scene_content()` says: in a live panel, in reports and in the documentation.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
