"""A training script, run as it stands and watched.

Exit codes, as `CheckupReport.exit_code()` gives them: 0, all that matters was judged and is clean; 1, faults; 2, the
script could not be run: it was not found, trained nothing, or ended with an error, and no fault was seen before; 3,
something was not judged, and the findings say what and why.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import multiprocessing
import os
import pkgutil
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import PathFinder, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any, NamedTuple, NoReturn

from rislab.checkup import child_processes
from rislab.checkup.child_processes import Children, Terminated
from rislab.checkup.findings import Findings
from rislab.checkup.output.report import CheckupReport
from rislab.checkup.process_watch import ProcessWatch, StopWatching
from rislab.checkup.recording.plain_stack import clean_error
from rislab.checkup.recording.windows import Declared
from rislab.errors import InputError, error_text


class Ending(NamedTuple):
    """How a script ended."""

    words: str  # that say it
    failed: bool = False  # whether it was broken off
    crashed: bool = False  # whether by an exception
    code: int | None = 0  # with which Python would have left; None for a script that was stopped
    error: BaseException | None = None  # that broke it off, None if none did


TO_ITS_END, STOPPED = Ending("ran to its end"), Ending("was stopped", code=None)
INTERRUPTED = Ending("was interrupted", failed=True, code=128 + signal.SIGINT)
TERMINATED = Ending("was ended by SIGTERM", failed=True, code=128 + signal.SIGTERM)
UNREAD = Ending("was cut off: nobody reads what it prints", failed=True, code=1)


def run_script(
    path: Path | str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    steps: int | None = None,
    patience: float = 0.0,
    every: int | None = None,
    declared: Declared | None = None,
) -> CheckupReport:
    """Run a script under a ProcessWatch, as `python SCRIPT ARGUMENTS` would, or `python -m MODULE ARGUMENTS`.

    Processes that it starts by `multiprocessing` are watched too. Its exceptions are shown on stderr and end the run.

    Args:
        path: of the script, or the name of a module.
        arguments: of the script.
        module: whether `path` is the name of a module.
        steps: stop after so many of one optimiser; None runs to the end.
        patience: seconds of the processor before which it is not stopped.
        every: n ≥ 1; take the gradients of each n-th window.
        declared: what its loops are meant to do; None if nothing is declared.

    Returns:
        Findings, how the script ended, and what was watched.

    Raises:
        InputError: for a path that is no file, and for a module that is not found.
    """
    if not module and not Path(path).is_file() and not Path(path, "__main__.py").is_file():
        raise InputError(f"SCRIPT is {str(path)!r}; allowed: the path of a Python file, or -m and the name of a module")
    folder, children_before, spent = os.getcwd(), multiprocessing.active_children(), child_processes.cpu_time()
    watch = ProcessWatch(steps, patience=patience, every=every, declared=declared)
    with tempfile.TemporaryDirectory(prefix="rislab-") as reports:
        children = Children(Path(reports).resolve(), os.getpid(), steps, every, declared)
        with _on_sigterm(children), _as_main(path, arguments, module) as run:
            ending, own = _watched(run, watch, children)
            try:
                child_processes.wait_for(children_before, None if ending is TO_ITS_END else child_processes.GRACE)
            except (StopWatching, Terminated, KeyboardInterrupt) as leaving:
                ending = _ending_of(leaving)
                child_processes.wait_for(children_before, child_processes.GRACE)
        child_reports = children.reports()
        unseen = children.unseen()
    taken = watch.steps + sum(report.steps for report in child_reports)
    trained = bool(taken or own)
    missing = child_processes.unjudged(unseen, child_processes.cpu_time() - spent, trained)
    findings = Findings([*own, *child_processes.merged(child_reports), *missing]).relative_to(folder)
    labels = watch.labels()
    labels += dict.fromkeys(f"{label} in a child process" for report in child_reports for label in report.optimisers)
    return CheckupReport(
        str(path),
        taken,
        labels,
        ending.words,
        ending.failed,
        ending.code,
        findings,
        remarks_on(ending, taken, watch.evaluated),
        places=_places(watch),
    )


def _places(watch: ProcessWatch) -> frozenset[str]:
    """Files and lines of the losses and steps that were recorded."""
    steps = [step for tracked in watch.tracked for step in tracked.recorder.trace.steps]
    places = {step.where for step in steps} | {batch.where for step in steps for batch in step.micro_batches}
    return frozenset(places - {""})


def remarks_on(ending: Ending, steps: int, evaluated: bool) -> list[str]:
    """What the end of a run after so many steps left unseen, in sentences."""
    if ending is STOPPED and not evaluated:
        return [f"stopped after {steps} steps: what comes later, as an evaluation, was not seen"]
    if ending.crashed and steps:
        return ["it was broken off by an error: what the weights did is not judged"]
    return []


def _watched(run: Callable[[], object], watch: ProcessWatch, children: Children) -> tuple[Ending, Findings]:
    """Run a script under a watch; how it ended, and what is wrong with its own loops."""
    threads = threading.enumerate()
    try:
        watch.__enter__()
        with children.watched(), _caught_exit(children.root):
            ending = _run_to_its_end(run, children.root)
            for thread in threading.enumerate():
                # As Python does at its end.
                if ending is TO_ITS_END and thread not in threads and not thread.daemon:
                    thread.join()
    except (StopWatching, Terminated, KeyboardInterrupt) as leaving:
        ending = _ending_of(leaving)
        ending = ending._replace(error=leaving) if ending.failed else ending
    with _undisturbed():
        return ending, watch.last_findings(ending.error, failed=ending.failed, crashed=ending.crashed)


def _run_to_its_end(run: Callable[[], object], process: int) -> Ending:
    ending = TO_ITS_END
    try:
        run()
    # Whatever a stranger's code may raise ends its run, and not the checkup of what came before.
    except BaseException as error:
        ending = _ending_of(error)
        ending = ending._replace(error=error) if ending.failed else ending
    if os.getpid() != process:
        # A fork of the script that has come to its end; its parent gives the account.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _EXIT(ending.code or 0)
    return ending


_EXIT = os._exit


class HardExit(BaseException):
    """Raised in the watched code in place of os._exit(), which would leave without a word."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _ending_of(error: BaseException) -> Ending:
    """How a script ended that raised this; it is shown as Python shows it."""
    if isinstance(error, StopWatching):
        return STOPPED
    if isinstance(error, Terminated):
        return TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit | HardExit):
        code = error.code
        if code is None or code == 0:
            return TO_ITS_END
        if isinstance(code, int):
            return Ending(f"left with exit code {code}", failed=True, code=code)
        with contextlib.suppress(OSError, ValueError):  # the script has closed it
            print(code, file=sys.stderr)
        return Ending(f"left with exit code 1: {error_text(error)}".removesuffix(": "), failed=True, code=1)
    if isinstance(error, BrokenPipeError) and _unread():
        return UNREAD
    _show(error)
    return crash(error)


def crash(error: BaseException) -> Ending:
    """The ending by an error."""
    text = f"crashed: {type(error).__name__}: {error_text(error)}"
    return Ending(text.removesuffix(": "), failed=True, crashed=True, code=1)


def _unread() -> bool:
    """Whether nobody reads the standard output any more."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    except ValueError:  # closed by the script
        return False
    return False


def _show(error: BaseException) -> None:
    """Show an error as Python would, without the frames that are not the script's."""
    clean_error(error)
    trace = error.__traceback__
    while trace is not None and _is_ours(trace):
        trace = trace.tb_next
    try:
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    # The script's own hook, which may leave as well, or a stream that it has closed.
    except BaseException:
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error, file=sys.__stderr__)


def _is_ours(trace: TracebackType) -> bool:
    name = trace.tb_frame.f_code.co_filename
    return name.startswith("<frozen") or name == runpy.__file__


@contextlib.contextmanager
def _as_main(path: Path | str, arguments: Sequence[str], module: bool) -> Iterator[Callable[[], object]]:
    """Give a script what it expects in sys, and take back what it put there; yields what runs it."""
    names = ("argv", "path", "stdin", "stdout", "stderr", "excepthook")
    before, main = {name: getattr(sys, name) for name in names}, sys.modules["__main__"]
    application = not module and pkgutil.get_importer(os.path.abspath(path)) is not None
    start = os.getcwd() if module else os.path.abspath(path) if application else str(Path(path).resolve().parent)
    # Python puts the folder of what it runs in front, which is that of the command until now.
    others = sys.path[sys.path[:1] == [os.path.dirname(os.path.realpath(sys.argv[0]))] :]
    sys.argv, sys.path = ["-m" if module else str(path), *arguments], [start, *others]
    try:
        if module:
            _check_module(str(path))
            yield lambda: runpy.run_module(str(path), run_name="__main__", alter_sys=True)
        elif application:
            yield lambda: _run_application(os.path.abspath(path))
        else:
            yield lambda: _run_file(os.path.abspath(path))
    finally:
        vars(sys).update(before)
        sys.modules["__main__"] = main


def _run_file(path: str) -> None:
    """Run a file as Python does: under its absolute path, and as the module that pickles refer to."""
    compiled = path.endswith(".pyc")
    loader = SourcelessFileLoader("__main__", path) if compiled else SourceFileLoader("__main__", path)
    main = ModuleType("__main__")
    vars(main).update(__file__=path, __loader__=loader, __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = main
    # What get_code() compiles of a source, it stores.
    code = loader.get_code("__main__") if compiled else loader.source_to_code(loader.get_data(path), path)
    exec(code, vars(main))  # type: ignore[arg-type]


def _run_application(path: str) -> None:
    """Run the __main__ of a folder, or of an archive."""
    spec = PathFinder.find_spec("__main__", [path])
    loader: Any = spec and spec.loader
    if spec is None or loader is None:
        raise InputError(f"SCRIPT is {path!r}; allowed: a folder, or an archive, in which there is a __main__.py")
    main = importlib.util.module_from_spec(spec)
    vars(main).update(__builtins__=builtins)
    sys.modules["__main__"] = main
    exec(loader.get_code("__main__"), vars(main))


def _check_module(name: str) -> None:
    try:
        exists = all(name.split(".")) and importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        exists = not f"{name}.".startswith(f"{error.name}.")
    # Whatever a package does when it is imported, it will do it again when it is run.
    except Exception:
        exists = True
    if not exists:
        raise InputError(f"MODULE is {name!r}; allowed: the name of a module that can be imported from here")


@contextlib.contextmanager
def _on_sigterm(children: Children) -> Iterator[None]:
    """SIGTERM ends the script, and not the checkup; only where it would have ended the process."""
    possible = os.name == "posix" and threading.current_thread() is threading.main_thread()
    if not possible or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    with children.hidden_handler():
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A first SIGTERM, or Ctrl-C, does not end the judging: the script is over already."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    try:
        for number in before:
            signal.signal(number, once)
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # set by other than Python
                signal.signal(number, handler)


@contextlib.contextmanager
def _caught_exit(process: int) -> Iterator[None]:
    """os._exit() ends the script, and not the checkup: an exit code of 0 without a word would be read as clean."""

    def leave(status: int) -> NoReturn:
        if os.getpid() != process:
            _EXIT(status)
        if threading.current_thread() is threading.main_thread():
            raise HardExit(status)
        print("rislab: a thread of the script called os._exit(): nothing is judged", file=sys.stderr, flush=True)
        _EXIT(status or 3)

    os._exit = leave
    try:
        yield
    finally:
        os._exit = _EXIT
