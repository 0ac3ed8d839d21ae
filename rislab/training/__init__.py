"""The training loop: its configuration, its state and records, run folders, streaming data and several processes.

The loop is the subject of the lab: it prints nothing and counts everything, and does not depend on who watches it.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
