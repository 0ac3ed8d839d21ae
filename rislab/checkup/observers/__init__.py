"""Observers of one kind of mistake each, which observe the events of a process and make findings of them.

The events stand in `recording/events.py`; `diagnosis.py` lists the observers.
"""
