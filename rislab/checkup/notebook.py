"""The checkup in a notebook: `%load_ext rislab`, then `%%checkup` over a training cell, and `%checkup_report`.

Importing this module brings neither torch nor IPython.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from rislab.checkup.options import OPTIONS, check_options
from rislab.errors import InputError

if TYPE_CHECKING:
    from rislab.checkup.output.report import CheckupReport

# Those of `rislab checkup` that say how a loop is watched; a cell that is not stopped runs to its end.
WATCHING = ("accumulation_steps", "mean", "clip_norm", "every", "steps")
# Objects that a cell may use are looked up so deep, and in containers of so many values at most.
_DEPTH, _VALUES = 4, 64


class CellError(Exception):
    """Raised after a watched cell that an exception ended: it is shown already, and is the `__cause__` of this one."""

    def _render_traceback_(self) -> list[str]:
        return [f"the watched cell was ended by {self}"]


class CheckupMagics:
    """The magics of one shell of IPython, with the last report."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._report: CheckupReport | None = None

    def checkup(self, line: str, cell: str) -> None:
        """Run a cell with every optimiser in it watched, and show what is wrong with its training loops."""
        from IPython.display import display

        with _usage_errors():
            options = _options(line)
            if _awaits(self._shell, cell):
                raise InputError("the cell awaits something at its top level; allowed: awaiting within functions")
        # The lines of the cell keep their numbers; a magic must come first.
        report, error = _watched(self._shell, cell if cell.startswith("%%") else f"# %%checkup {line}\n{cell}", options)
        if report is not None:
            self._report = report
            display(report)
        if error is not None:
            raise CellError(f"{type(error).__name__}: {error}".removesuffix(": ")) from error

    def checkup_report(self, line: str) -> CheckupReport:
        """What the last %%checkup found; `report = %checkup_report` keeps it."""
        with _usage_errors():
            if given := line.partition("#")[0].strip():
                raise InputError(f"%checkup_report is given {given!r}; allowed: nothing")
            if self._report is None:
                raise InputError("%checkup_report comes before any %%checkup; allowed: after a cell that was watched")
        return self._report


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext rislab` calls: a shell of IPython gets the magics `%%checkup` and `%checkup_report`.

    Args:
        shell: that loads the extension.
    """
    magics = CheckupMagics(shell)

    def checkup(line: str, cell: str) -> None:
        magics.checkup(line, cell)

    # What `%%checkup?` shows.
    checkup.__doc__ = f"{CheckupMagics.checkup.__doc__}\n\n{_parser().format_help()}"
    shell.register_magic_function(checkup, "cell")
    shell.register_magic_function(magics.checkup_report, "line")


def _watched(shell: Any, cell: str, options: Mapping[str, Any]) -> tuple[CheckupReport | None, BaseException | None]:
    """Run a cell; returns its report, None if it could not begin, and the error that ended it, None if none did."""
    from rislab.checkup.findings import in_cells
    from rislab.checkup.output.report import CheckupReport
    from rislab.checkup.output.silencing import silence
    from rislab.checkup.process_watch import ProcessWatch, StopWatching
    from rislab.checkup.recording.windows import Declared
    from rislab.checkup.script import INTERRUPTED, STOPPED, TO_ITS_END, crash, remarks_on

    declared = Declared(options["accumulation_steps"], options["mean"] or "", options["clip_norm"])
    # Not kept in a variable: what the cell lets go must go.
    watch = ProcessWatch(
        options["steps"], every=options["every"], declared=declared, known=_used_by(cell, shell.user_ns)
    )
    watch.__enter__()
    try:
        with _without_traceback(shell, StopWatching):
            result = shell.run_cell(cell)
    except BaseException as leaving:
        watch.__exit__(type(leaving), leaving, leaving.__traceback__)
        raise
    if result.error_before_exec is not None:
        watch.__exit__(None, None, None)
        return None, result.error_before_exec
    # Run within another one, it was taken for the next cell.
    shell.compile.cache(shell.transform_cell(cell), len(shell.user_ns["In"]) - 1, raw_code=cell)
    error = result.error_in_exec
    endings = {type(None): TO_ITS_END, StopWatching: STOPPED, KeyboardInterrupt: INTERRUPTED}
    ending = endings.get(type(error)) or crash(error)
    findings = watch.last_findings(error if ending.failed else None, failed=ending.failed, crashed=ending.crashed)
    optimisers = [tracked.label() for tracked in watch.tracked if tracked.recorder.trace.taken]
    remarks = remarks_on(ending, watch.steps, watch.evaluated)
    report = CheckupReport("the cell", watch.steps, optimisers, ending.words, ending.failed, None, findings, remarks)
    report = silence(report, "")  # by comments in the lines, before these are named
    findings = report.findings.in_cells(shell).relative_to(os.getcwd())
    report = replace(report, findings=findings, remarks=[in_cells(remark, shell) for remark in report.remarks])
    return report, None if ending is STOPPED else error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"%%checkup: {message}; {self.format_usage().strip()}")


def _parser() -> _Parser:
    parser = _Parser(prog="%%checkup", add_help=False, allow_abbrev=False)
    for name in WATCHING:
        option = OPTIONS[name]
        kind, metavar = {"integer": (int, "N"), "number": (float, "X")}.get(
            option.kind, (str, "|".join(option.choices))
        )
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=option.help)
    return parser


def _options(line: str) -> dict[str, Any]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise InputError(f"%%checkup is given {line!r}: {error}; allowed: options, as in a terminal") from None
    given = vars(_parser().parse_args(words))
    check_options(**{name: value for name, value in given.items() if value is not None})
    return given


@contextmanager
def _usage_errors() -> Iterator[None]:
    """An InputError as IPython shows the wrong use of a magic: one line."""
    from IPython.core.error import UsageError

    try:
        yield
    except InputError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _without_traceback(shell: Any, kind: type[BaseException]) -> Iterator[None]:
    """An exception of this kind ends a cell without a traceback."""
    before = shell.custom_exceptions, shell.CustomTB
    shell.set_custom_exc((kind,), lambda *error, tb_offset=None: None)
    try:
        yield
    finally:
        shell.custom_exceptions, shell.CustomTB = before


def _awaits(shell: Any, cell: str) -> bool:
    """Whether a cell awaits at its top level; a cell that cannot be read does not."""
    try:
        return bool(shell.should_run_async(cell, transformed_cell=shell.transform_cell(cell)))
    except SyntaxError:
        return False


def _used_by(cell: str, namespace: Mapping[str, Any]) -> list[object]:
    """What a cell may use of the objects that are there: by their names, also in functions, and what these hold."""
    names = dict.fromkeys(re.findall(r"\b[^\W\d]\w*\b", cell))
    objects: dict[int, object] = {}
    level = [namespace[name] for name in names if name in namespace]
    for _ in range(_DEPTH):
        level = [one for one in level if id(one) not in objects]
        objects.update((id(one), one) for one in level)
        level = [part for one in level for part in _parts(one, namespace)]
    return list(objects.values())


def _parts(value: object, namespace: Mapping[str, Any]) -> list[Any]:
    """What an object holds, or a function uses."""
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        own = value.__globals__ is namespace
        return cells + [namespace[name] for name in value.__code__.co_names if own and name in namespace]
    if isinstance(value, list | tuple | set):
        return list(value) if len(value) <= _VALUES else []
    held = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    if isinstance(value, types.ModuleType) or held is namespace or len(held) > _VALUES:
        return []
    return list(held.values())
