"""A request that the kernel has not noticed is answered all the same, where there are live panels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

# Waits until a request has arrived, and takes away what would tell of it, as sending a reply does.
MISS = """
from rislab.panels.unread_messages import read_unread_messages
kernel = get_ipython().kernel

def miss():
    while not kernel.shell_stream.socket.poll(10):
        pass

read_unread_messages()
kernel.shell_channel_thread.io_loop.add_callback(miss)
"""


@pytest.mark.process
def test_a_request_that_the_kernel_missed_is_answered() -> None:
    manager, client = start_new_kernel()

    def until(read: Callable[..., Any], request: str, state: str | None = None) -> None:
        while True:
            message = read(timeout=60)
            answers = message["parent_header"].get("msg_id") == request
            if answers and message["content"].get("execution_state") == state:
                return

    try:
        until(client.get_iopub_msg, client.execute(MISS), "idle")
        until(client.get_shell_msg, client.kernel_info())
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
