"""How often an observer looks: at the first events of a kind, then ever more rarely."""

from __future__ import annotations

import weakref
from collections.abc import Hashable

# Events looked at in the beginning; distance to the next, as a share of those so far; and the largest distance.
FIRST, GROWTH, LARGEST = 24, 0.2, 997
# So many objects may be remembered before those that are gone are forgotten.
OBJECTS = 64


class Looks:
    """Chooses events of each kind.

    Args:
        first: so many are looked at in the beginning.
    """

    def __init__(self, first: int = FIRST) -> None:
        self._first, self._most = first, OBJECTS
        self._counts: dict[Hashable, tuple[int, int]] = {}

    def wanted(self, kind: Hashable) -> bool:
        """Whether the event of a kind that now comes is to be looked at."""
        count, following = self._counts.get(kind, (0, 0))
        look = count >= following
        if look:
            following = count + 1 + (min(LARGEST, int(GROWTH * count)) if count >= self._first else 0)
        self._counts[kind] = count + 1, following
        return look

    def wanted_at(self, one: object) -> bool:
        """The same for events at an object, which may die: another one may have its address later."""
        if len(self._counts) > self._most:
            alive = [
                (kind, count)
                for kind, count in self._counts.items()
                if not isinstance(kind, weakref.ref) or kind() is not None
            ]
            self._counts, self._most = dict(alive), max(OBJECTS, 2 * len(alive))
        return self.wanted(weakref.ref(one))
