"""Who is told of which event: observers in their order, less those that have finished their question, or failed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from rislab.checkup.recording.events import Observer
from rislab.errors import error_text

# So many failures of the checkup's own are kept.
_FAILURES = 16
_EVENTS = tuple(name for name, one in vars(Observer).items() if callable(one) and name != "findings")
# Of which those are told too whose looks end with the first backwards.
_LASTING = {"on_log_prob", "end"}


class Listeners:
    """Observers, by the events that they take."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.failures: list[str] = []
        self._listeners: dict[str, list[tuple[Observer, Callable[..., Any]]]] = {event: [] for event in _EVENTS}
        self._notifying = threading.RLock()
        self.add(observers)

    def add(self, observers: Sequence[Observer]) -> None:
        """Add observers after the others."""
        for event, listeners in self._listeners.items():
            listeners += [(one, getattr(one, event)) for one in observers if _takes(one, event)]

    def __getitem__(self, event: str) -> Iterator[Callable[..., Any]]:
        """What is called for an event."""
        return (method for _, method in self._listeners[event])

    def take(self, event: str) -> bool:
        """Whether any observer takes an event."""
        return bool(self._listeners[event])

    def notify(self, event: str, args: tuple[Any, ...]) -> None:
        """Tell all that take an event; whoever gives back True, or fails, is told no more."""
        with self._notifying:
            for observer, method in self._listeners[event]:
                try:
                    if method(*args):
                        self._listeners[event] = [one for one in self._listeners[event] if one[0] is not observer]
                except Exception as error:
                    self._drop([observer], {"end"})
                    self.note_failure(f"{type(observer).__name__}.{event}", error)

    def not_agreeing(self, methods: Sequence[Callable[..., Any]], *args: Any) -> list[Callable[..., Any]]:
        """Those of some methods of observers that say no; none if one fails."""
        try:
            return [method for method in methods if not method(*args)]
        except Exception as error:
            self.note_failure("not_agreeing", error)
            return []

    def agree(self, event: str, *args: Any) -> bool:
        """Whether all observers that are asked say yes."""
        try:
            for _, method in self._listeners[event]:
                if not method(*args):
                    return False
        except Exception as error:
            self.note_failure(event, error)
            return False
        return True

    def end_first_backwards(self) -> None:
        """Tell those no more whose looks end with the first backwards."""
        over = {id(one): one for listeners in self._listeners.values() for one, _ in listeners}
        self._drop([one for one in over.values() if one.of_first_backwards], _LASTING)

    def clear(self) -> None:
        """Tell nobody any more."""
        self._listeners = {event: [] for event in _EVENTS}

    def _drop(self, observers: Sequence[Observer], lasting: Collection[str]) -> None:
        for event in self._listeners.keys() - lasting:
            self._listeners[event] = [
                one for one in self._listeners[event] if all(one[0] is not other for other in observers)
            ]

    def note_failure(self, place: str, error: Exception) -> None:
        """Remember an error of the checkup's own, and the place where it came up, once."""
        failure = f"{place}: {type(error).__name__}: {error_text(error)}"
        if failure not in self.failures and len(self.failures) < _FAILURES:
            self.failures.append(failure)


def _takes(observer: Observer, event: str) -> bool:
    return getattr(type(observer), event) is not getattr(Observer, event)
