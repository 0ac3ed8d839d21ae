"""The thread that is watched: the first one that trains, and another one when it is over."""

from __future__ import annotations

import threading


class TrainingThreads:
    """Threads in which backwards came."""

    def __init__(self) -> None:
        self.watched: int | None = None
        self.others: set[int] = set()  # that train beside it: their gradients change while they are read

    def choose(self) -> None:
        """A backward begins in this thread."""
        here = threading.get_ident()
        if here == self.watched:
            return
        # A thread that is about to start has no identity yet: nor has one that was not chosen.
        if self.watched is not None and self.watched in {thread.ident for thread in threading.enumerate()}:
            self.others.add(here)
        else:
            self.watched = here

    def is_other(self) -> bool:
        """Whether this thread trains beside the watched one."""
        return bool(self.others) and threading.get_ident() in self.others - {self.watched}
