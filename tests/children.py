"""Child processes that start at once: they are forked from a server that has imported torch and the training loop."""

from __future__ import annotations

import multiprocessing
import textwrap
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

# torch imports its compiler when an optimiser first steps.
PRELOADED = ["torch._dynamo", "rislab.training.run_folder", "rislab.training.distributed"]


def begin_child(code: str, **names: Any) -> tuple[BaseProcess, Connection]:
    """Run code in a process of its own, with one thread of torch.

    Args:
        code: of a script; `connection.send(...)` reaches the other end of the connection.
        names: further names that it finds; they are pickled.

    Returns:
        The process, and this end of the connection, which ends when the process does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe()
    start = "import signal, torch\nsignal.signal(signal.SIGINT, signal.default_int_handler)\ntorch.set_num_threads(1)\n"
    process = context.Process(target=exec, args=(start + textwrap.dedent(code), {**names, "connection": there}))
    process.start()
    there.close()
    return process, here
