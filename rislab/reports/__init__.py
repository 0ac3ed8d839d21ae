"""Notebook files as reports: parameters, papermill, HTML, gallery, sweep, serving, grading.

Everything here reads or writes files of notebooks and pages.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
