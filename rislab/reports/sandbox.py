"""Code of hand-ins, judged where it can do little: a process of its own for each answer, with limits.

Time, memory and the size of files are limited by the kernel; the network is an empty one of the process's own where the
kernel allows that, and else sockets are refused by Python alone, which is said. Programs, other processes, native
libraries and files beyond an empty folder are refused by Python alone: this stops carelessness and curiosity, and no
expert, who may also tamper with what judges him, in the same process.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SECONDS, MEMORY, FILE_SIZE = 20, 1 << 30, 1 << 20
# On a busy machine a process waits for others: its own time is limited, and that of the clock more generously.
CLOCK = 4
TEXT = 400
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
REFUSED = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "os.killpg", "os.remove",
    "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.putenv", "pty.spawn",
    "subprocess.Popen", "ctypes.dlopen", "sys.addaudithook", "webbrowser.open", "signal.pthread_kill",
)  # fmt: skip
REFUSED_ROOMS = ("socket.", "shutil.", "urllib.", "http.", "ftplib.", "smtplib.", "telnetlib.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Job:
    """An answer to be judged.

    Args:
        exercise: name of one whose answer is code.
        imports: import statements of the notebook; those that fail are left out.
        source: of the cell.
    """

    exercise: str
    imports: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Args:
        right: None if there is no answer in it.
        text: one sentence.
        own_network: whether the process had an empty network of its own.
    """

    right: bool | None
    text: str
    own_network: bool = False


def run_jobs(jobs: Sequence[Job], *, seconds: float = SECONDS) -> Iterator[Outcome]:
    """Judge answers one after another, each in a process of its own.

    Args:
        jobs: of any number of students.
        seconds: of the processor that each may take, > 0; four times that by the clock.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {"PATH": os.defpath, "PYTHONPATH": paths, "HOME": folder, "TMPDIR": folder}
        # Without GPUs no thread is started by a backward, so that the process can be forked.
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", "from rislab.reports import sandbox; sandbox.serve()"]
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, env=environment, text=True
        )
        assert server.stdin is not None and server.stdout is not None
        try:
            for job in jobs:
                server.stdin.write(json.dumps([asdict(job), seconds]) + "\n")
                server.stdin.flush()
                line = server.stdout.readline()
                yield Outcome(**json.loads(line)) if line else Outcome(False, "the sandbox could not be started")
        finally:
            server.stdin.close()
            server.terminate()
            server.wait()
            server.stdout.close()


def serve() -> None:
    """Judge the jobs that come on standard input, a line each; for run_jobs() alone."""
    import torch

    from rislab.faults import code_checks
    from rislab.faults.exercises import EXERCISES

    torch.set_num_threads(1)
    # What is imported and computed here once is there in each process that is forked from this one.
    for exercise in EXERCISES.values():
        if exercise.kind == "code":
            code_checks.problem_of(exercise, code_checks.reference(exercise))
    for line in sys.stdin:
        fields, seconds = json.loads(line)
        print(json.dumps(asdict(_forked(Job(**fields), seconds))), flush=True)


def _forked(job: Job, seconds: float) -> Outcome:
    """Judge a job in a child, which is killed when its time is up."""
    reading, writing = os.pipe()
    token = secrets.token_hex(16)
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_in_child(job, seconds, writing, token)
    os.close(writing)
    answer = b""
    end = time.monotonic() + CLOCK * seconds
    while (left := end - time.monotonic()) > 0 and len(answer) < 1 << 16:
        if not select.select([reading], [], [], left)[0] or not (part := os.read(reading, 1 << 16)):
            break
        answer += part
    timed_out = time.monotonic() >= end
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    try:
        given = json.loads(answer)
        if given.pop("token") == token:
            return Outcome(**given)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    if timed_out or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return Outcome(False, f"stopped, it took more than {seconds:g} s: does a loop in it never end?")
    return Outcome(False, "its process ended before it was judged: does it exit, or take too much memory?")


def _run_in_child(job: Job, seconds: float, writing: int, token: str) -> None:
    """Judge a job here, and end this process; never returns."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        own_network = _own_network()
        _limit(seconds)
        sys.addaudithook(_refuse)
        right, text = _checked_here(job)
        answer = Outcome(right, text[:TEXT], own_network)
        os.write(writing, json.dumps({**asdict(answer), "token": token}).encode())
        code = 0
    finally:
        os._exit(code)


def _checked_here(job: Job) -> tuple[bool | None, str]:
    from rislab.faults.exercises import EXERCISES, check_function, in_short

    exercise = EXERCISES[job.exercise]
    if "rislab.faults" in job.source:
        return False, "not yet: an answer does without rislab.faults, where the solutions stand"
    namespace: dict[str, Any] = {"__name__": "answer"}
    try:
        for line in job.imports:
            try:
                exec(line, namespace)
            except ImportError:
                continue
        exec(compile(job.source, "<answer>", "exec"), namespace)
    except (Exception, SystemExit) as error:
        return False, f"not yet: the cell raised {in_short(error)}"
    function = namespace.get(exercise.function)
    if not callable(function):
        return False, f"not yet: there is no function {exercise.function}"
    feedback = check_function(exercise, function)
    return feedback.right, feedback.text


def _own_network() -> bool:
    """Move this process into an empty network of its own; whether the kernel allowed it."""
    try:
        return ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0
    except (OSError, AttributeError):
        return False


def _limit(seconds: float) -> None:
    """Limits that the kernel holds: time of the processor, memory beyond what is taken already, files, processes."""
    limits = {resource.RLIMIT_FSIZE: FILE_SIZE, resource.RLIMIT_CORE: 0}
    limits[resource.RLIMIT_NPROC] = 0
    try:
        with open("/proc/self/statm", encoding="ascii") as pages:
            limits[resource.RLIMIT_AS] = int(pages.read().split()[0]) * resource.getpagesize() + MEMORY
    except OSError:
        limits[resource.RLIMIT_AS] = 8 * MEMORY
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    # The first of the two can be told from other ends.
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: what an answer has no need of is an error in it."""
    if event in REFUSED or event.startswith(REFUSED_ROOMS):
        raise PermissionError(f"{event} is not allowed in an answer")
    if event == "open":
        path, mode, flags = arguments
        writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & WRITING)
        if writes and not os.path.realpath(str(path)).startswith(os.getcwd() + os.sep):
            raise PermissionError("writing a file is not allowed in an answer")
