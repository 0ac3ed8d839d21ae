"""Results in, plotly figures out, with the words and tables that stand beside them.

Pure functions: no widget, no thread, no file.
"""
