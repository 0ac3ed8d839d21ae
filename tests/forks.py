"""Python processes that start at once: forked from a process that has imported torch and its compiler.

To import both takes four seconds of a core, and every optimiser needs them. A test of what a fresh interpreter imports
must start one by subprocess.Popen.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from typing import IO, Any, NoReturn
from unittest.mock import patch

PANELS = ("faults", "map_history", "music", "precision", "quiz", "story", "training", "tuning")
PRELOADED = (
    # Before what looks like a notebook to it, or bars of progress are drawn as widgets.
    "tqdm.auto",
    *("torch._dynamo", "rislab.training.run_folder", "rislab.training.distributed"),
    *("ipykernel.kernelapp", "jupyterlab.labapp"),
    # What each notebook imports.
    *("nbformat", "plotly.io", *(f"rislab.panels.{name}_panel" for name in PANELS)),
)
# What the workers of pytest import beyond that.
WORKERS = (
    *("pytest", "hypothesis", "jsonschema", "xmlschema", "playwright.sync_api", "torch.utils.tensorboard"),
    *("lightning", "transformers", "accelerate", "skorch", "ignite.engine"),
    *("optuna", "sqlalchemy", "psycopg", "scipy", "h5py", "voila", "papermill", "nbclient", "nbconvert"),
)
PATH = os.environ.get("PYTHONPATH")
LOCK = threading.Lock()


OPTIONS = {"cwd", "env", "start_new_session", "stderr", "stdin", "stdout", "text"}
POPEN = subprocess.Popen


class Forked:
    """As subprocess.Popen, for `python -m module`, `python -c code` and `python script`.

    What needs the interpreter to start (other options, another PYTHONPATH) starts it, and is a Popen.
    """

    __class_getitem__ = classmethod(types.GenericAlias)

    def __new__(cls, args: Any, **options: Any) -> Any:
        able = hasattr(os, "pidfd_open")  # on Linux
        is_ours = able and isinstance(args, list) and args[0] == sys.executable and len(args) > 1
        plain = options.keys() <= OPTIONS and (options.get("env") or os.environ).get("PYTHONPATH") == PATH
        if is_ours and plain and (args[1] in ("-m", "-c") or args[1:3] == ["-u", "-c"] or str(args[1])[0] != "-"):
            return object.__new__(cls)
        return POPEN(args, **options)

    def __init__(
        self, args: list[Any], stdin: Any = None, stdout: Any = None, stderr: Any = None, text: bool = False,
        cwd: Any = None, env: Any = None, start_new_session: bool = False,
    ) -> None:  # fmt: skip
        self.args, self.returncode = args, None
        self._lock = threading.RLock()
        self.stdin, first = _stream(stdin, 0, text)
        self.stdout, second = _stream(stdout, 1, text)
        self.stderr, third = _stream(second if stderr == subprocess.STDOUT else stderr, 2, text)
        order = {
            "words": [os.fspath(word) for word in args[1:]], "cwd": os.fspath(cwd or Path.cwd()),
            "environment": dict(env or os.environ), "session": start_new_session,
        }  # fmt: skip
        self._status, status = os.pipe()
        its = [first, second, third, status]
        self.pid = _ask(order, its)
        for descriptor in its:
            os.close(descriptor)

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self.returncode is None:
                if not connection.wait([self._status], timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
                ended = os.read(self._status, 16)
                os.close(self._status)
                self.returncode = os.waitstatus_to_exitcode(int(ended)) if ended else -signal.SIGKILL
            return self.returncode

    def poll(self) -> int | None:
        if self._lock.acquire(blocking=False):  # else another thread waits
            with suppress(subprocess.TimeoutExpired):
                self.wait(0)
            self._lock.release()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        read: dict[int, Any] = {}

        def drain(number: int, stream: IO[Any]) -> None:
            read[number] = stream.read()

        outputs = [(number, stream) for number, stream in enumerate((self.stdout, self.stderr)) if stream]
        threads = [threading.Thread(target=drain, args=each, daemon=True) for each in outputs]
        for thread in threads:
            thread.start()
        if self.stdin:
            with suppress(BrokenPipeError):
                if input:
                    self.stdin.write(input)
                self.stdin.close()
        last = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.join(None if last is None else max(0.0, last - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(None if last is None else max(0.0, last - time.monotonic()))
        return read.get(0), read.get(1)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()
        self.wait()


def kill_group(process: Any) -> bool:
    """Kill a process of a session of its own, with what it started there; False if it came to its end before."""
    running = process.poll() is None
    # It may end now, and one that was forked by another process is gone with its end.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return running


def _stream(given: Any, number: int, text: bool) -> tuple[IO[Any] | None, int]:
    """Our end of a standard stream where it is a pipe, and a descriptor of the other end."""
    if given == subprocess.PIPE:
        ends = os.pipe()
        ours, its = ends if number else ends[::-1]
        return open(ours, ("r" if number else "w") + ("" if text else "b")), its
    if given == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    return None, os.dup(number if given is None else given if isinstance(given, int) else given.fileno())


# In a process that was forked, its line to the server; elsewhere the first order starts one.
LINES: list[socket.socket] = []


def _line(*more: str) -> socket.socket:
    if not LINES:
        here, there = socket.socketpair()
        command = [sys.executable, "-m", "tests.forks", str(there.fileno()), *more]
        process = POPEN(command, cwd=Path(__file__).parents[1], pass_fds=[there.fileno()])
        there.close()
        atexit.register(process.wait)
        atexit.register(here.close)
        here.recv(1)  # once it has imported all
        LINES.append(here)
    return LINES[0]


@contextmanager
def forking_workers() -> Iterator[None]:
    """Meanwhile a worker of pytest is a fork too; what its tests fork comes from the same server."""
    with LOCK:
        _line(*WORKERS)
    with patch.object(subprocess, "Popen", Forked):
        yield


@contextmanager
def forking() -> Iterator[None]:
    """Meanwhile all that is started by subprocess.Popen and subprocess.run, and all kernels, are forked if possible."""
    from jupyter_client import launcher

    with patch.object(subprocess, "Popen", Forked), patch.object(launcher, "Popen", Forked):
        yield


def inherited() -> tuple[dict[str, str], list[int]]:
    """Variables and descriptors of a program that is no Python, and in which a Python process calls as_fork()."""
    with LOCK:
        line = _line()
    return {"RISLAB_FORKS": str(line.fileno())}, [line.fileno()]


def as_fork(*words: str) -> NoReturn:
    """Be what Python would be with these words, by a fork of the server whose line was inherited."""
    LINES.append(socket.socket(fileno=int(os.environ.pop("RISLAB_FORKS"))))
    sys.exit(Forked([sys.executable, *words]).wait())


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
    from jupyter_client import launcher

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    first, *rest = order["words"]
    if first == "-u":
        first, *rest = rest
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, io.TextIOWrapper)
            stream.reconfigure(write_through=True)
    if rest[:1] in (["ipykernel_launcher"], ["jupyterlab"], ["voila"]):
        # Of what others start, a signal must reach the whole process group, to which a fork does not belong.
        launcher.Popen = subprocess.Popen = Forked  # type: ignore[assignment, misc]
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
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)  # Python ends those of its own pools, and waits for the others
    # torch hangs where the collector meets the last holder of a gloo group that has work under way.
    gc.disable()
    atexit._run_exitfuncs()
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    import torch

    # A worker of pytest, which is forked from here, has a line to this server already.
    sys.modules["tests.forks"] = sys.modules["__main__"]
    # The pytest process is interrupted itself, and ends this one by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    for name in (*PRELOADED, *sys.argv[2:]):
        importlib.import_module(name)
    gc.freeze()
    to_pytest = socket.socket(fileno=int(sys.argv[1]))
    to_pytest.sendall(b".")
    if (given := serve(to_pytest)) is not None:
        end(*given)
