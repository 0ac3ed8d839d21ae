"""Python processes that start at once: forked from a process that has imported torch and its compiler.

To import both takes four seconds of a core, and every optimiser needs them. A test of what a fresh interpreter imports
must start one by subprocess.Popen.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

PANELS = ("faults", "map_history", "music", "precision", "quiz", "story", "training", "tuning")
PRELOADED = (
    *("torch._dynamo", "rislab.training.run_folder", "rislab.training.distributed", "ipykernel.kernelapp"),
    # What each notebook imports.
    *("nbformat", "plotly.io", *(f"rislab.panels.{name}_panel" for name in PANELS)),
)
PATH = os.environ.get("PYTHONPATH")
LOCK = threading.Lock()


class Forked(subprocess.Popen[Any]):
    """As subprocess.Popen, for `python -m module`, `python -c code` and `python script`.

    Of the options, those that need the interpreter to start (preexec_fn, another PYTHONPATH) start it.
    """

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        _, pass_fds, cwd, env, _, _, shell, *pipes = rest
        able = hasattr(os, "pidfd_open")  # on Linux
        is_ours = able and isinstance(args, list) and args[0] == sys.executable and len(args) > 1
        plain = not (executable or preexec_fn or pass_fds or shell) and (env or os.environ).get("PYTHONPATH") == PATH
        if not (is_ours and plain and (args[1] in ("-m", "-c") or str(args[1])[0] != "-")):
            super()._execute_child(args, executable, preexec_fn, *rest)  # type: ignore[misc]
            return
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *more = pipes
        order = {
            "words": [os.fspath(word) for word in args[1:]], "cwd": os.fspath(cwd or Path.cwd()),
            "environment": dict(env or os.environ), "session": more[5],
        }  # fmt: skip
        streams = [own if own != -1 else number for number, own in enumerate((p2cread, c2pwrite, errwrite))]
        self._status, status = os.pipe()
        self.pid = _ask(order, [*streams, status])
        os.close(status)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not hasattr(self, "_status"):
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        with selectors.DefaultSelector() as ready:
            ready.register(self._status, selectors.EVENT_READ)
            if not ready.select(0 if wait_flags else None):
                return 0, 0
        text = os.read(self._status, 16)
        os.close(self._status)
        return self.pid, int(text) if text else signal.SIGKILL

    def _internal_poll(self, _deadstate: Any = None, **given: Any) -> int | None:
        if not hasattr(self, "_status"):
            return super()._internal_poll(_deadstate, **given)  # type: ignore[misc, no-any-return]
        lock = self._waitpid_lock  # type: ignore[attr-defined]
        if self.returncode is None and lock.acquire(blocking=False):  # else another thread waits
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode


# In a process that was forked, its line to the server; elsewhere the first order starts one.
LINES: list[socket.socket] = []


def _line() -> socket.socket:
    if not LINES:
        here, there = socket.socketpair()
        command = [sys.executable, "-m", "tests.forks", str(there.fileno())]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], pass_fds=[there.fileno()])
        there.close()
        atexit.register(process.wait)
        atexit.register(here.close)
        here.recv(1)  # once it has imported all
        LINES.append(here)
    return LINES[0]


@contextmanager
def forking() -> Iterator[None]:
    """Meanwhile all that is started by subprocess.Popen and subprocess.run, and all kernels, are forked if possible."""
    from jupyter_client import launcher

    with LOCK:
        _line()
    with patch.object(subprocess, "Popen", Forked), patch.object(launcher, "Popen", Forked):
        yield


def _ask(order: dict[str, Any], descriptors: list[int]) -> int:
    message = json.dumps(order).encode()
    with LOCK:
        server = _line()
        socket.send_fds(server, [len(message).to_bytes(4, "big")], descriptors)
        server.sendall(message)
        return int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big")


def serve(first: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork a process for each order; returns in each of them with its order, and None once the first line is closed."""
    selector = selectors.DefaultSelector()
    selector.register(first, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data:
                pid, status = key.data
                ended = str(os.waitpid(pid, 0)[1]).encode()
                with suppress(BrokenPipeError):  # of a kernel that ended before what it started
                    os.write(status, ended)
                selector.unregister(key.fd)
                os.close(key.fd)
                os.close(status)
                continue
            line = key.fileobj
            assert isinstance(line, socket.socket)
            length, descriptors, *_ = socket.recv_fds(line, 4, 4)
            if not length:
                if line is first:
                    return None
                selector.unregister(line)
                line.close()
                continue
            order = json.loads(line.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
            mine, its = socket.socketpair()
            *streams, status = descriptors
            pid = os.fork()
            if pid == 0:
                if order["session"]:
                    os.setsid()
                # Who knows of this process may at once signal its process group.
                line.sendall(os.getpid().to_bytes(4, "big"))
                for one in selector.get_map().values():
                    os.close(one.fd)
                    if one.data:
                        os.close(one.data[1])
                selector.close()
                os.close(status)
                mine.close()
                LINES.append(its)
                return order, streams
            its.close()
            for descriptor in streams:
                os.close(descriptor)
            selector.register(mine, selectors.EVENT_READ)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))


def run(order: dict[str, Any], streams: list[int]) -> None:
    """What Python does with these words."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    first, *rest = order["words"]
    if rest[:1] == ["ipykernel_launcher"]:
        # Of what others start, a signal must reach the whole process group, to which a fork does not belong.
        subprocess.Popen = Forked  # type: ignore[misc]
    if first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


def end(order: dict[str, Any], streams: list[int]) -> NoReturn:
    """Run them and end as Python does, but let the memory be: to free it would first copy all that forks share."""
    code: Any = None
    try:
        run(order, streams)
    except SystemExit as leave:
        code = leave.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()
    atexit._run_exitfuncs()
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    import torch

    # The pytest process is interrupted itself, and ends this one by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # nbformat imports jsonschema, which builds 38 grammars of URIs: two seconds in each kernel that shows a figure.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    to_pytest = socket.socket(fileno=int(sys.argv[1]))
    to_pytest.sendall(b".")
    if (given := serve(to_pytest)) is not None:
        end(*given)
