"""Rules over recorded steps: plain functions from comparisons, counts and declarations to findings.

They read what `recording` keeps, and hook into nothing.
"""
