"""The processes of a search: begin workers at a task, and stop them at a step boundary."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable

from rislab.errors import InputError
from rislab.tuning.worker import Task

POLL_SECONDS = 0.3
# Time for a worker to come to a step boundary.
PATIENCE_SECONDS = 20.0


def run_workers(task: Task, count: int) -> Generator[None]:
    """Let workers do a task, one thread each.

    Args:
        task: of each worker; what one has begun no other begins.
        count: number of workers, ≥ 1.

    Yields:
        None, again and again until all have ended, and once after that. Closing stops them.

    Raises:
        InputError: if no worker came to the end of its task.
    """
    line = json.dumps(dataclasses.asdict(task)) + "\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as messages:
        running = []
        for _ in range(count):
            worker = subprocess.Popen(
                [sys.executable, "-m", "rislab.tuning.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                text=True,
                env=environment,
            )
            assert worker.stdin is not None
            worker.stdin.write(line)
            worker.stdin.flush()
            running.append(worker)
        try:
            while any(worker.poll() is None for worker in running):
                yield
                time.sleep(POLL_SECONDS)
        finally:
            _stop(running)
        yield
        messages.seek(0)
        lines = [text for text in messages.read().splitlines() if text.strip()]
    codes = [worker.returncode for worker in running]
    if all(codes):
        killed = f"all workers were ended by signal {-codes[0]}; the same command goes on" if codes[0] < 0 else ""
        raise InputError(lines[-1] if lines and not killed else killed or f"a worker ended with code {codes[0]}")


def _stop(workers: Iterable[subprocess.Popen[str]]) -> None:
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.close()
    for worker in workers:
        try:
            worker.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
