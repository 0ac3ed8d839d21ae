"""Observers of one kind of mistake each, which listen to the events of a process and make findings of what they heard.

The events stand in `recording/events.py`; `loop_watch.py` lists the observers.
"""
