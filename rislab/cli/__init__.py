"""The command line: one file a command, each of which parses, calls and prints.

Nothing is computed here, and nothing heavy is imported before a command is given.
"""

from rislab.cli.main import main

__all__ = ["main"]
