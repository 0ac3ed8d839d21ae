"""Notebook files as reports: parameters, papermill, HTML, gallery, sweep, serving, grading.

Everything here reads or writes files of notebooks and pages.
"""
