"""Reports side by side: each in a process of its own, with kernels of one intra-op thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from typing import TypeVar

from rislab.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")
SINGLE_THREAD = {"RISLAB_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def in_processes(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    *,
    on_begin: Callable[[Task], None] = lambda task: None,
) -> Iterator[Result]:
    """Results as they come, with at most `workers` tasks at once; an interrupt ends the running tasks.

    Args:
        work: of one task; a function of a module.
        tasks: begun in their order.
        workers: processes; 1 works in this one, with its environment.
        on_begin: called with each task before it begins.

    Raises:
        InputError: if a process was killed; what is finished stays.
    """
    if workers == 1:
        for task in tasks:
            on_begin(task)
            yield work(task)
        return
    waiting, running = list(tasks), set[Future[Result]]()
    # Fresh processes: kernels, and sockets to them, do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, _single_thread) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    task = waiting.pop(0)
                    on_begin(task)
                    running.add(pool.submit(_interruptible, work, task))
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for each in ended:
                    yield each.result()
        except BrokenExecutor:
            raise InputError("a process of the reports was killed; what is finished stays") from None
        except BaseException:
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGINT)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _single_thread() -> None:
    os.environ.update(SINGLE_THREAD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of one that waits: it would show where


def _interruptible(work: Callable[[Task], Result], task: Task) -> Result:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return work(task)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
