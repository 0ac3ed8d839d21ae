"""How often an observer looks: at the first events of a kind, then ever more rarely."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

# Events looked at in the beginning; distance to the next, as a share of those so far; and the largest distance.
FIRST, GROWTH, LARGEST = 24, 0.2, 997


class Looks:
    """Chooses events of each kind.

    Args:
        weak: whether kinds are objects that are forgotten when they are gone: others may have their addresses later.
    """

    def __init__(self, weak: bool = False) -> None:
        self._counts: MutableMapping[Any, tuple[int, int]] = WeakKeyDictionary() if weak else {}

    def wanted(self, kind: Hashable) -> bool:
        """Whether the event of a kind that now comes is to be looked at."""
        count, following = self._counts.get(kind, (0, 0))
        look = count >= following
        if look:
            following = count + 1 + (min(LARGEST, int(GROWTH * count)) if count >= FIRST else 0)
        self._counts[kind] = count + 1, following
        return look
