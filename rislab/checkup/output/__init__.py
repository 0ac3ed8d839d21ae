"""Findings on their way out: which of them count, the report of a run, and its formats for programs.

Nothing here looks at a loop.
"""
