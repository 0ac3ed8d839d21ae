"""A run in a thread of its own that can be paused, stepped and stopped at step boundaries, and awaited."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator

import torch

from rislab.training.records import Record, StepRecord

REDRAW_SECONDS = 0.12
# Drawing may take this share of the time: figures that take longer come less often.
DRAWING_SHARE = 1 / 20
POLL_SECONDS = 0.05


class BackgroundTask:
    """Drains a stream of records in a thread of its own; stops and pauses at a step boundary.

    Args:
        stream: called in that thread; returns the generator of records.
        on_tick: called there after a record, eight times a second at most, and once at the end; less often if it takes
            more than a twentieth of the time. Its exception ends the ticks (see `tick_error`), never the run.
        read: reads the records back from where the stream writes them; if None, they are kept in memory.
    """

    def __init__(
        self,
        stream: Callable[[], Generator[Record]],
        on_tick: Callable[[], None] = lambda: None,
        read: Callable[[], list[Record]] | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self.tick_error: Exception | None = None
        self._stream, self._on_tick, self._read = stream, on_tick, read
        self._records: list[Record] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._paused = threading.Event()
        self._ended = threading.Event()
        self._single = threading.Event()
        # OpenMP counts threads per thread: the worker would not inherit what the notebook has set.
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="rislab run", daemon=True)

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Ask the run to stop after the window in progress."""
        self._stop.set()

    def pause(self) -> None:
        """Ask the run to wait after the window in progress."""
        self._paused.set()

    def resume(self) -> None:
        """Let a paused run go on."""
        self._paused.clear()

    def step(self) -> None:
        """Let a paused run do one window, and pause a running one."""
        self._paused.set()
        self._single.set()

    @property
    def running(self) -> bool:
        """Whether records may still come."""
        return self._thread.is_alive() and not self._ended.is_set()

    @property
    def state(self) -> str:
        """ "waiting", "running", "paused", "stopped", "failed" or "finished"."""
        if self._thread.ident is None:
            return "waiting"
        if self.running:
            return "paused" if self._paused.is_set() and not self._stop.is_set() else "running"
        if self.error is not None:
            return "failed"
        return "stopped" if self._stop.is_set() else "finished"

    def records(self) -> list[Record]:
        """The records so far, as a list of the caller's own."""
        if self._read is not None:
            return self._read()
        with self._lock:
            return list(self._records)

    async def wait(self) -> list[Record]:
        """All records, once the run has ended; raises the run's exception. An interrupt stops the run first."""
        try:
            while self.running:
                await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            self.stop()
            self._thread.join()
            raise KeyboardInterrupt from None
        if self.error is not None:
            raise self.error
        return self.records()

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        due = 0.0
        try:
            stream = self._stream()
            try:
                for record in stream:
                    if self._read is None:
                        with self._lock:
                            self._records.append(record)
                    began = time.monotonic()
                    if began >= due:
                        self._tick()
                        due = began + max(REDRAW_SECONDS, (time.monotonic() - began) / DRAWING_SHARE)
                    if isinstance(record, StepRecord):
                        self._wait_while_paused()
                    if self._stop.is_set():
                        break
            finally:
                stream.close()
        except BaseException as error:  # kept, and raised again where the run is awaited
            self.error = error
        self._ended.set()
        self._tick()

    def _wait_while_paused(self) -> None:
        if self._paused.is_set() and not self._stop.is_set():
            self._tick()
        while self._paused.is_set() and not self._stop.is_set():
            if self._single.is_set():
                self._single.clear()
                return
            time.sleep(POLL_SECONDS / 5)

    def _tick(self) -> None:
        try:
            self._on_tick()
        except Exception as error:  # a drawing fault must not end a training; the panel shows it
            self.tick_error = error
