"""What the processes of tests do without: see conftest.py."""

raise ImportError("38 grammars are not built here")
