"""Results in, plotly figures out.

Pure functions: no widget, no thread, no file.
"""
