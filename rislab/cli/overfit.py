"""`rislab overfit`: the overfit ladder, and the precision × accumulation table."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rislab import files
from rislab.cli import common, terminal
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.config import PRECISIONS

if TYPE_CHECKING:
    from rislab.sanity.checks import CheckResult
    from rislab.sanity.precision import AccumulationCell
    from rislab.training.records import Record

EXAMPLES = (
    ("overfit", "the ladder, on the small preset"),
    ("overfit --preset full --matrix", "with the precision × accumulation table"),
    ("overfit -p accumulation_steps 8 -p micro_batch 8 --log", "another window, and the log of its training"),
    ("overfit --run runs/today", "Ctrl-C, and the same command goes on where it stopped"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = "Run the overfit ladder. Exit code 0 only if every check holds."
    common.add_parameters(parser, OverfitConfig)
    common.add_threads(parser)
    parser.add_argument("--only", nargs="+", default=[], metavar="CHECK", help="run these checks only")
    common.add_run(parser, None, "of the training of the set: stop and resume")
    parser.add_argument("--matrix", action="store_true", help="add the precision × accumulation table")
    parser.add_argument("--log", action="store_true", help="print the training log of the whole set")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    common.use_threads(options.threads)

    from rislab.sanity import overfit_ladder
    from rislab.training import loop, run_folder
    from rislab.training.records import EpochRecord, console

    config = common.configured(options, OverfitConfig)
    say = common.printer(options.json)
    progress = terminal.Progress(options.json)
    began = time.perf_counter()
    say(_headline(config))
    for warning in loop.config_warnings(config.training(), config.scenes):
        say(f"note: {warning}")
    interrupted = _interrupt_flag() if options.folder else lambda: False
    if options.folder:
        files.check_writable(Path(options.folder))
    if options.folder and (Path(options.folder) / run_folder.RECORDS).exists():
        earlier = run_folder.read_records(options.folder)
        say(f"note: {options.folder} goes on after step {earlier[-1].step if earlier else 0}")
    log: list[Record] = []

    def show(record: Record) -> None:
        if interrupted():
            raise KeyboardInterrupt(f"stopped after step {record.step}; the same command goes on with {options.folder}")
        progress.show(f"epoch {record.epoch} of {config.epochs}, step {record.step}")
        log.append(record)
        if options.log and isinstance(record, EpochRecord):
            progress.clear()
            say("\n".join(console(log)))
            log.clear()

    checks: list[CheckResult] = []
    for check in overfit_ladder.ladder(config, only=options.only, folder=options.folder, on_record=show):
        checks.append(check)
        progress.clear()
        say(terminal.marked(check.line()))
        if interrupted():
            raise KeyboardInterrupt("stopped between two checks")
    cells = _matrix(config, say) if options.matrix else []
    batches = _one_batches(config, say) if options.matrix else []
    passed = all(part.passed for part in [*checks, *batches]) and all(cell.passed for cell in cells)
    seconds = time.perf_counter() - began
    say(f"{sum(check.passed for check in checks)} of {len(checks)} checks hold; {seconds:.1f} s")
    if options.json:
        parts: dict[str, Sequence[Any]] = {"checks": checks, "matrix": cells, "one_batch": batches}
        plain: dict[str, Any] = {name: [dataclasses.asdict(part) for part in some] for name, some in parts.items()}
        plain |= {"config": dataclasses.asdict(config), "passed": passed, "seconds": seconds}
        common.print_json(plain)
    return 0 if passed else 1


def _headline(config: OverfitConfig) -> str:
    return (
        f"{common.origin()}\n"
        f"{config.preset}: {config.scenes} scenes, {config.epochs} epochs, micro-batch {config.micro_batch}, "
        f"{config.accumulation_steps} accumulation steps, {config.precision}, lr {config.lr:g}, seed {config.seed}, "
        f"{config.device}"
    )


def _interrupt_flag() -> Callable[[], bool]:
    """Turn the first Ctrl-C into a flag, so that training stops at a step boundary; a second one interrupts at once."""
    asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    return lambda: asked


def _matrix(config: OverfitConfig, say: Callable[..., None]) -> list[AccumulationCell]:
    """The precision × accumulation table, printed row by row."""
    from rislab.sanity.precision import ACCUMULATION_HEADER, accumulation_cells

    say("\ngradient of 64 scenes, accumulated against one batch in the same precision")
    say(ACCUMULATION_HEADER)
    cells = []
    for cell in accumulation_cells(config):
        cells.append(cell)
        say(terminal.marked(cell.line()))
    return cells


def _one_batches(config: OverfitConfig, say: Callable[..., None]) -> list[CheckResult]:
    """The check "one batch" in every precision."""
    from rislab.sanity import overfit_ladder

    say()
    checks = []
    for precision in PRECISIONS:
        for check in overfit_ladder.ladder(config.changed(precision=precision), only=["one batch"]):
            checks.append(dataclasses.replace(check, name=f"one batch {precision}"))
            say(terminal.marked(checks[-1].line()))
    return checks
