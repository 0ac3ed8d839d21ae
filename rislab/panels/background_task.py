"""One piece of work in a thread of its own that can be paused, stepped and stopped between two items."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Generic, TypeVar

import torch

from rislab.training.records import StepRecord

REDRAW_SECONDS = 0.19
# Drawing may take this share of the time: figures that take longer come less often.
DRAWING_SHARE = 1 / 20
POLL_SECONDS = 0.05
NO_NEWS = object()  # an item after which nothing is drawn

Item = TypeVar("Item")
Request = TypeVar("Request")


class BackgroundTask(Generic[Item]):
    """Drains a generator in a thread of its own; stops between two items, and pauses after a StepRecord.

    Args:
        stream: called in that thread; returns the generator.
        on_tick: called there after an item other than NO_NEWS, and once at the end; must not raise.
        pace: least seconds between two ticks, which come less often still if they take more than a twentieth of the
            time; 0 for a tick after each item.
    """

    def __init__(
        self,
        stream: Callable[[], Generator[Item]],
        on_tick: Callable[[], None] = lambda: None,
        *,
        pace: float = REDRAW_SECONDS,
    ) -> None:
        self.error: BaseException | None = None
        self._stream, self._on_tick, self._pace = stream, on_tick, pace
        self._stop = threading.Event()
        self._paused = threading.Event()
        self._ended = threading.Event()
        self._cut = False  # ended by stop(), before its last item
        self._single = threading.Event()
        # OpenMP counts threads per thread: the worker would not inherit what the notebook has set.
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="rislab task", daemon=True)

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Ask the task to stop after the item in progress."""
        self._stop.set()

    def pause(self) -> None:
        """Ask the task to wait after the window in progress."""
        self._paused.set()

    def resume(self) -> None:
        """Let a paused task go on."""
        self._paused.clear()

    def step(self) -> None:
        """Let a paused task do one window, and pause a running one."""
        self._paused.set()
        self._single.set()

    @property
    def running(self) -> bool:
        """Whether items may still come."""
        return self._thread.is_alive() and not self._ended.is_set()

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop and is still at its item in progress; the last tick follows."""
        return self._stop.is_set() and self.running

    @property
    def busy(self) -> bool:
        """Whether items may still come, or the last tick is not over."""
        return self._thread.is_alive()

    @property
    def state(self) -> str:
        """ "waiting", "running", "paused", "stopped", "failed" or "finished"."""
        if self._thread.ident is None:
            return "waiting"
        if self.running:
            return "paused" if self._paused.is_set() and not self._stop.is_set() else "running"
        if self.error is not None:
            return "failed"
        return "stopped" if self._cut else "finished"

    def join(self, seconds: float) -> bool:
        """Wait until the task has ended and its last tick is over; returns whether that was so within some seconds."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self.busy

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        due = 0.0
        try:
            with closing(self._stream()) as stream:
                for item in stream:
                    began = time.monotonic()
                    # After a stop only the last tick is left, and comes at once.
                    if item is not NO_NEWS and began >= due and not self._stop.is_set():
                        self._on_tick()
                        taken = time.monotonic() - began
                        # What came late by a part of the pace does not put off what follows.
                        pace = max(self._pace, taken / DRAWING_SHARE) if self._pace else 0.0
                        due = max(due, began - pace) + pace
                    if isinstance(item, StepRecord):
                        self._wait_while_paused()
                    if self._stop.is_set():
                        self._cut = True
                        break
        except BaseException as error:  # kept, and raised again where the panel is awaited
            self.error = error
        self._ended.set()
        self._on_tick()

    def _wait_while_paused(self) -> None:
        if self._paused.is_set() and not self._stop.is_set():
            self._on_tick()
        while self._paused.is_set() and not self._stop.is_set():
            if self._single.is_set():
                self._single.clear()
                return
            time.sleep(POLL_SECONDS / 5)


class LatestOnly(Generic[Request]):
    """Works on the newest request only; one that waits is replaced by the next.

    Its thread lives while there are requests. What is being worked on is given up at its next yield if a newer request
    waits, and so is its exception.

    Args:
        work: generator function of a request; yields whenever there is something new to be drawn, and NO_NEWS where
            it can be given up.
        on_tick: see BackgroundTask; called after each yield, and when no request is left.
    """

    def __init__(
        self, work: Callable[[Request], Generator[object]], on_tick: Callable[[], None] = lambda: None
    ) -> None:
        self._work, self._on_tick = work, on_tick
        self._lock = threading.Lock()
        self._waiting: list[Request] = []
        self._draining = False
        self.task = self._task()

    def submit(self, request: Request) -> None:
        """Work on this, and on nothing else that still waits."""
        with self._lock:
            self._waiting = [request]
            if self._draining:
                return
            self._draining = True
            if self.task.state != "waiting":
                self.task = self._task()
            self.task.start()

    def forget(self) -> None:
        """Forget how the last request ended, unless one is worked on."""
        with self._lock:
            if not self._draining:
                self.task = self._task()

    @property
    def superseded(self) -> bool:
        """Whether a request waits: what is being worked on is no longer wanted."""
        return bool(self._waiting)

    def _task(self) -> BackgroundTask[object]:
        return BackgroundTask(self._drain, self._on_tick, pace=0.0)

    def _drain(self) -> Generator[object]:
        while True:
            with self._lock:
                if not self._waiting:
                    self._draining = False
                    return
                request = self._waiting.pop()
            try:
                with closing(self._work(request)) as stages:
                    for stage in stages:
                        yield stage
                        if self.superseded:
                            break
            except BaseException as error:
                with self._lock:
                    # A stop, which closes this generator, drops what waits.
                    if isinstance(error, GeneratorExit) or not self._waiting:
                        self._waiting, self._draining = [], False
                        raise
