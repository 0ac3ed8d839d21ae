"""Code of hand-ins, judged where it can do little: a process of its own for each answer, with limits.

The kernel limits time and memory. On Linux it also refuses programs, processes, signals, sockets and writing files;
elsewhere Python alone refuses them, and the grades say so. Reading files, above all the solutions, is refused by Python
alone. That stops carelessness and curiosity, but no expert: answer and check run in one process.
"""

from __future__ import annotations

import importlib.machinery
import json
import math
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rislab.errors import InputError
from rislab.reports import system_calls

SECONDS, MEMORY = 10, 1 << 30
# Limit of wall time over that of processor time, since a process on a busy machine waits for others.
CLOCK = 4
IDLE = 5  # seconds that a process may do nothing
READY = "ready\n"
TEXT = 400
REFUSED = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "os.killpg", "os.remove",
    "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.putenv", "pty.spawn",
    "subprocess.Popen", "ctypes.dlopen", "ctypes.dlsym", "sys.addaudithook", "webbrowser.open", "signal.pthread_kill",
    "gc.get_objects", "gc.get_referrers", "gc.get_referents",
)  # fmt: skip
REFUSED_PREFIXES = ("socket.", "shutil.", "urllib.", "http.", "ftplib.", "smtplib.", "telnetlib.")
SOLUTIONS = "rislab.faults."
MODULES = (".pyi", *importlib.machinery.all_suffixes())
PACKAGE = os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir, "faults")) + os.sep
SYSTEM = (
    *(os.path.realpath(path) + os.sep for path in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())),
    "/proc/self/", "/sys/", "/dev/", "/usr/",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """An answer to be judged."""

    exercise: str  # name of one whose answer is code
    imports: tuple[str, ...]  # import statements of the notebook; those that fail are left out
    source: str  # of the cell


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    right: bool | None  # None if there is no answer in it
    text: str  # one sentence
    by_kernel: bool = False  # whether the kernel refused what an answer does not need


def run_jobs(jobs: Sequence[Job], *, seconds: float = SECONDS) -> Iterator[Outcome]:
    """Judge answers one after another, each in a process of its own.

    Args:
        jobs: of any number of students.
        seconds: of the processor that each may take, > 0; four times that by the clock.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = _start_server(folder)
        try:
            for job in jobs:
                outcome = _run_job(server, job, seconds)
                if outcome is None:
                    _close(server)
                    server = _start_server(folder)
                yield outcome or Outcome(False, "its process ended, and with it the one that judges")
        finally:
            _close(server)


def _start_server(folder: str) -> subprocess.Popen[str]:
    """A process that judges, in an empty folder."""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {"PATH": os.defpath, "PYTHONPATH": paths, "HOME": folder, "TMPDIR": folder}
    # Without GPUs a backward starts no thread, so that the process can be forked.
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", "from rislab.reports import sandbox; sandbox.serve()"]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=folder, env=environment, text=True)
    assert server.stdout is not None
    if server.stdout.readline() != READY:
        _close(server)
        raise InputError("the process that judges code could not be started; allowed: without --run, answers are read")
    return server


def _run_job(server: subprocess.Popen[str], job: Job, seconds: float) -> Outcome | None:
    """What the process that judges says of a job; None if it is gone."""
    assert server.stdin is not None and server.stdout is not None
    try:
        server.stdin.write(json.dumps([asdict(job), seconds]) + "\n")
        server.stdin.flush()
        line = server.stdout.readline()
    except BrokenPipeError:
        return None
    return Outcome(**json.loads(line)) if line else None


def _close(server: subprocess.Popen[str]) -> None:
    server.kill()
    server.communicate()  # closes both pipes


def serve() -> None:
    """Judge the jobs that come on standard input, a line each; for run_jobs() alone."""
    import torch

    from rislab.faults import code_checks
    from rislab.faults.exercises import EXERCISES

    torch.set_num_threads(1)
    # Imported and computed once, here: each forked process has it already.
    for exercise in EXERCISES.values():
        if exercise.kind == "code":
            code_checks.problem_of(exercise, code_checks.reference(exercise))
    print(READY, end="", flush=True)
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
    now = time.monotonic()
    end, busy, used = now + CLOCK * seconds, now, 0.0
    while now < end and now < busy + IDLE and len(answer) < 1 << 16:
        if select.select([reading], [], [], 0.2)[0]:
            if not (part := os.read(reading, 1 << 16)):
                break
            answer += part
        now = time.monotonic()
        if (spent := _processor_time(child)) > used:
            busy, used = now, spent
    timed_out = now >= end or now >= busy + IDLE
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
        idle = " or waited for nothing" if now >= busy + IDLE else ""
        return Outcome(False, f"stopped, it took more than {seconds:g} s{idle}: does a loop in it never end?")
    return Outcome(False, "its process ended before it was judged: does it exit, or take too much memory?")


def _processor_time(process: int) -> float:
    """Seconds of the processor that a process took; those of the clock where the system does not say."""
    try:
        return time.clock_gettime((~process << 3) | 2)
    except OSError:
        return time.monotonic()


def _run_in_child(job: Job, seconds: float, writing: int, token: str) -> None:
    """Judge a job here, and end this process; never returns."""
    code = 1
    try:
        os.setsid()
        system_calls.end_with_parent(signal.SIGKILL)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        _limit(seconds)
        by_kernel = system_calls.refuse_in_this_process()
        answer = Outcome(*_checked_here(job), by_kernel)
        os.write(writing, json.dumps({**asdict(answer), "token": token}).encode())
        code = 0
    finally:
        os._exit(code)


def _checked_here(job: Job) -> tuple[bool | None, str]:
    from rislab.faults.exercises import EXERCISES, check_function, in_short

    exercise = EXERCISES[job.exercise]
    for name in [name for name in sys.modules if f"{name}.".startswith(SOLUTIONS)]:
        del sys.modules[name]
    vars(sys.modules["rislab"]).pop("faults", None)
    sys.addaudithook(_refuse)
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
    return feedback.right, feedback.text[:TEXT]


def _limit(seconds: float) -> None:
    """Limits that the kernel holds: time of the processor, memory beyond what is taken already, files, processes."""
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_NPROC: 0}
    try:
        with open("/proc/self/statm", encoding="ascii") as pages:
            limits[resource.RLIMIT_AS] = int(pages.read().split()[0]) * resource.getpagesize() + MEMORY
    except OSError:
        limits[resource.RLIMIT_AS] = 8 * MEMORY
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    # The soft limit ends the process by SIGXCPU, which differs from other ends.
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that raises for whatever an answer does not need."""
    if event in REFUSED or event.startswith(REFUSED_PREFIXES):
        raise PermissionError(f"{event} is not allowed in an answer")
    if event == "import" and f"{arguments[0]}.".startswith(SOLUTIONS):
        raise ImportError("an answer does without rislab.faults, where the solutions stand")
    if event == "open":
        path, mode, flags = arguments
        if set(mode or "") & set("wax+") or (flags or 0) & system_calls.WRITING:
            raise PermissionError("writing a file is not allowed in an answer")
        if not isinstance(path, int) and not _is_of_python(os.path.realpath(os.fsdecode(path))):
            raise PermissionError(f"reading {os.path.basename(os.fsdecode(path))} is not allowed in an answer")


def _is_of_python(path: str) -> bool:
    """Whether a file is one that imports need: a module, or what comes with Python, its packages and the system."""
    if path.endswith(MODULES):
        return True
    return path.startswith(SYSTEM) and not path.startswith(PACKAGE)
