"""The training loop: its configuration, its state and records, run folders, streaming data and several processes.

The loop is the subject of the lab, so it prints nothing and counts everything; nothing here knows who watches.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
