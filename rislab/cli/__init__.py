"""The command line: one file a command, each of which parses, calls and prints.

Nothing is computed here, and nothing heavy is imported before a command is given.
"""

from rislab import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
