"""A kernel that leaves no message of a page unread."""

from __future__ import annotations

from functools import cache

MILLISECONDS = 200


@cache
def read_unread_messages() -> None:
    """Look five times a second, from now on, for messages of a page that this kernel has not noticed.

    ipykernel 7.1 to 7.3 sends each reply past the stream that reads the same socket (issue 1554 of its repository). A
    message that arrives in that moment wakes nobody, nor do those that follow it: while a cell awaits, which sends no
    reply, the buttons of a page bring nothing about.
    """
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    thread = getattr(kernel, "shell_channel_thread", None)
    if kernel is None or thread is None:
        return
    import zmq
    from tornado.ioloop import PeriodicCallback

    reading = PeriodicCallback(lambda: kernel.shell_stream.flush(zmq.POLLIN), MILLISECONDS)
    thread.io_loop.add_callback(reading.start)
