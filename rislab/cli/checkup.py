"""`rislab checkup`: run and watch an unchanged training script, and say what is wrong with it.

Exit code 0: all that matters was judged and is clean; 1: faults; 2: the script could not be run, trained nothing, or
ended with an error; 3: something was not judged.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rislab import files
from rislab.checkup.findings import MARKS, SEVERITIES, Finding
from rislab.checkup.options import OPTIONS
from rislab.checkup.output.formats import FORMATS, Setting, format_of_file
from rislab.checkup.output.report import CheckupReport
from rislab.checkup.output.silencing import Baseline, names_of, silence, unused_comments
from rislab.cli import common, terminal
from rislab.config import Config, Declaration, choice, declarations, declared, switch, text
from rislab.errors import InputError

COLOURS = {"fault": terminal.RED, "warning": terminal.YELLOW, "note": terminal.CYAN}
# Short scripts run to their end, so that their evaluation is part of what is watched.
STEPS, PATIENCE = 100, 10
# Options that hold names of findings.
NAMES = ("select", "ignore")
EXAMPLES = (
    ("checkup train.py -- --epochs 1", "what stands after -- belongs to the script"),
    ("checkup -m package.train --accumulation-steps 4", "a module, and what it is meant to do"),
    ("checkup train.py --format github --out report.sarif", "in a job of continuous integration"),
    ("checkup train.py --baseline known.json --write-baseline", "what is known does not fail again"),
)


def _option(name: str, default: Any, **changes: Any) -> Any:
    """The field of an option of the checkup."""
    return declared(default, Declaration(**dataclasses.asdict(OPTIONS[name]) | changes))


@dataclass(frozen=True)
class CheckupConfig(Config):
    """How a script is watched, and what of its findings is shown, where, and counts."""

    steps: int | None = _option(
        "steps", None, help=f"stop after so many steps of one optimiser; else after {STEPS}, once {PATIENCE} s are over"
    )
    every: int = _option("every", 1, optional=False)
    accumulation_steps: int | None = _option("accumulation_steps", None, metavar="K")
    mean: str | None = _option("mean", None, optional=True)
    clip_norm: float | None = _option("clip_norm", None, metavar="C")
    epochs: int | None = _option("epochs", None)
    scheduler_interval: str | None = _option(
        "scheduler_interval", None, choices=("step", "epoch"), optional=True, metavar="INTERVAL"
    )
    format: str = choice(
        "text", ("text", *FORMATS), "of the report; with json, sarif and junit, what the script prints goes to stderr",
        metavar="FORMAT",
    )  # fmt: skip
    output: str | None = text(
        None, "write the report to a file too: .sarif, .xml (JUnit), else JSON", optional=True, metavar="FILE"
    )
    fail_on: str = choice("fault", SEVERITIES, "the mildest that makes the exit code 1", metavar="SEVERITY")
    select: str | None = text(
        None, "only these count: codes as C3, prefixes C and P, names of rules or findings; commas between them",
        optional=True, metavar="NAMES",
    )  # fmt: skip
    ignore: str | None = text(None, "these do not count; see --select", optional=True, metavar="NAMES")
    baseline: str | None = text(None, "of findings that are known and do not count", optional=True, metavar="FILE")
    write_baseline: bool = switch(False, "write what is found to the file of --baseline; faults in it do not fail")
    allow_unjudged: bool = switch(False, "exit code 0 instead of 3 where something was not judged")

    def check(self) -> None:
        """Refuse files that cannot be written, and names that no rule has."""
        for name in NAMES:
            names_of(name, getattr(self, name) or "")
        if self.write_baseline and self.baseline is None:
            raise InputError("--write-baseline is given without a file; allowed: --baseline FILE beside it")
        for name, path in (("output", self.output), ("baseline", self.baseline if self.write_baseline else None)):
            if path is not None:
                files.check_file_writable(name, path)


class _Joined(argparse.Action):
    """An option that may be given again: each time adds names."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        setattr(namespace, self.dest, ",".join(filter(None, (getattr(namespace, self.dest, ""), values))))


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Run a training script, unmodified, with every optimiser watched, and print what is wrong with its loop. "
        "Processes that it starts by multiprocessing are watched too. "
        "Exit code 0: all that matters was judged and is clean; 1: faults; 2: the script could not be run (it was not "
        "found, trained nothing, or ended with an error or an exit code of its own), and no fault was seen before; "
        "3: something was not judged, and it is said which rule and why. "
        "A comment `# rislab: ignore[C3]` on the line that a finding names silences it."
    )
    parser.usage = "rislab checkup [options] (SCRIPT | -m MODULE)\n       [-- arguments of the script]"
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="Python file")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module, as python -m does")
    fields = [name for name in declarations(CheckupConfig) if name not in ("output", *NAMES)]
    common.add_parameters(parser, CheckupConfig, fields)
    for name in NAMES:
        parser.add_argument(
            f"--{name}", action=_Joined, metavar="NAMES", default=argparse.SUPPRESS,
            help=declarations(CheckupConfig)[name].help,
        )  # fmt: skip
    parser.add_argument(
        "-o", "--out", "--output", dest="output", metavar="FILE", default=argparse.SUPPRESS,
        help=declarations(CheckupConfig)["output"].help,
    )  # fmt: skip
    parser.add_argument(
        "--json", dest="format", action="store_const", const="json", default=argparse.SUPPRESS,
        help="as --format json",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    config = common.configured(options, CheckupConfig)
    if (options.script is None) == (options.module is None):
        given = "nothing" if options.script is None else f"{options.script!r} and -m {options.module!r}"
        raise InputError(f"SCRIPT is {given}; allowed: the path of a Python file, or -m and the name of a module")
    # Paths are relative to this folder, and the script may change the current one.
    folder = os.getcwd()
    output, baseline_file = (path and Path(path).absolute() for path in (config.output, config.baseline))
    baseline = Baseline.from_file(config.baseline) if config.baseline and not config.write_baseline else None

    with contextlib.nullcontext() if config.format in ("text", "github") else _stdout_apart():
        report = _watched(options, config)
    report = silence(
        report,
        folder,
        select=names_of("select", config.select or ""),
        ignore=names_of("ignore", config.ignore or ""),
        baseline=baseline,
    )
    if not (config.select or config.ignore):
        unused = unused_comments(report, folder)
        report = dataclasses.replace(report, remarks=list(dict.fromkeys([*report.remarks, *unused])))
    if config.write_baseline and baseline_file:
        report = _into_baseline(report, baseline_file, folder)
    code = report.exit_code(allow_unjudged=config.allow_unjudged, fail_on=config.fail_on)
    setting = Setting(folder, config.fail_on, code)
    _say(_text(report, code) if config.format == "text" else FORMATS[config.format](report, setting), report)
    # Last, so that a full disk takes away no more than the file.
    if output:
        files.replace(output, f"{FORMATS[format_of_file(output, config.format)](report, setting)}\n".encode())
    return code


def _say(text: str, report: CheckupReport) -> None:
    """Print a report, on stderr if the script has closed the standard output."""
    text = terminal.printable(text)
    try:
        print(text, file=sys.stdout or sys.stderr, flush=True)
    except BrokenPipeError:
        # The rest of the buffer is written at exit, and must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if report.failed:
            print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # closed
        print(text, file=sys.stderr, flush=True)


def _watched(options: argparse.Namespace, config: CheckupConfig) -> CheckupReport:
    from rislab.checkup.recording.windows import Declared
    from rislab.checkup.script import run_script

    return run_script(
        options.script if options.module is None else options.module,
        options.arguments,
        module=options.module is not None,
        steps=config.steps or STEPS,
        patience=0 if config.steps else PATIENCE,
        every=config.every,
        declared=Declared(
            config.accumulation_steps,
            config.mean or "",
            config.clip_norm,
            scheduler_interval=config.scheduler_interval or "",
            epochs=config.epochs,
        ),
    )


def _into_baseline(report: CheckupReport, path: Path, folder: str) -> CheckupReport:
    """Write the findings to a file, and silence them; a run that was broken off has not shown all, and writes none."""
    if report.failed:
        return dataclasses.replace(report, remarks=[*report.remarks, "no baseline was written: the run was broken off"])
    baseline = Baseline.of(report.findings, folder)
    files.replace(path, baseline.text().encode())
    count = baseline.known.total()
    text = f"{count} finding{'' if count == 1 else 's'} written to {os.path.relpath(path, folder)}"
    return dataclasses.replace(silence(report, folder, baseline=baseline), remarks=[*report.remarks, text])


def _text(report: CheckupReport, code: int) -> str:
    """A report for people."""
    lines = ["", *report.head()]
    if not report.trained:
        return "\n".join(lines)
    lines += [_coloured(finding) for finding in report.findings]
    if code == 3:
        lines += ["exit code 3, as something could not be judged; --allow-unjudged makes it 0"]
    return "\n".join([*lines, terminal.painted(report.verdict, terminal.STRONG)])


def _coloured(finding: Finding) -> str:
    """A finding with its severity in colour, its name strong, and what stands before the details faint."""
    first, *details = str(finding).splitlines()
    mark, title = MARKS[finding.severity], f"{finding.code} {finding.name}"
    rest = first.removeprefix(f"{mark} {title}")
    lines = [f"{terminal.painted(mark, COLOURS[finding.severity])} {terminal.painted(title, terminal.STRONG)}{rest}"]
    for line in details:
        label, colon, text = line.partition(":")
        lines.append(f"{terminal.painted(label + colon, terminal.FAINT)}{text}")
    return "\n".join(lines)


@contextlib.contextmanager
def _stdout_apart() -> Iterator[None]:
    """Redirect the standard output to stderr, also that of C code and child processes."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        stdout = os.dup(1)
    except OSError:  # closed
        stdout = None
    if stdout is not None:
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if stdout is not None:
            os.dup2(stdout, 1)
            os.close(stdout)
            # Registered last, so that it is called before the exit handlers of the script.
            atexit.unregister(_stdout_to_stderr)
            atexit.register(_stdout_to_stderr)


def _stdout_to_stderr() -> None:
    with contextlib.suppress(OSError, ValueError):  # closed, or replaced by something without a number
        sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
