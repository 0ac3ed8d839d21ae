"""`rislab localise --data FILE`: positions from a measurement in a file, with standard errors and a verdict."""

from __future__ import annotations

import argparse
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rislab.cli import common
from rislab.cli.terminal import Column, Table
from rislab.errors import InputError, with_error

if TYPE_CHECKING:
    from rislab.data.measurement import Measurement
    from rislab.music.localisation import Localisation

COLUMNS = [
    Column("source", 7, left=True), Column("azimuth (°)", 19, left=True), Column("elevation (°)", 19, left=True),
    Column("range (m)", 19, left=True), Column("position (m)", 13, left=True), Column("power (dB)", 10),
]  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a file."""
    formats = ".npz, .mat, .h5 or .csv"
    parser.add_argument("--data", metavar="FILE", help=f"a measurement of your own ({formats}): its sources alone")
    parser.add_argument("--centred", action="store_true", help="of --data: subtract what the codes do not change")
    parser.add_argument("--template", metavar="FILE", help=f"write an example of such a file ({formats})")


def refuse_idle_options(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Raise InputError for an option that has no effect beside --data or --template; the parser has the defaults."""
    # Options of a configuration are absent if they are not given.
    usual = {"preset": None, "device": None, **vars(parser.parse_args([]))}
    given = [name for name, value in vars(options).items() if name in usual and value != usual[name]]
    for name, allowed in (("template", ()), ("data", ("sources", "centred", "threads", "json"))):
        other = next((each for each in given if each not in (name, *allowed)), None)
        if name in given and other is not None:
            word = {"folder": "--run", "fields": "-p"}.get(other, f"--{other}")
            flags = ", ".join(f"--{each}" for each in allowed) or "nothing else"
            raise InputError(f"{word} is given with --{name}, where it has no effect; allowed: {flags}")
    if options.centred and not options.data:
        raise InputError("--centred is given without a measurement; allowed: with --data")


def run_template(path: str) -> int:
    """Write a template; returns the exit code."""
    from rislab.data import measurement_files

    measurement_files.write_template(path)
    print(f"{path}: a measurement of a 4×4 surface at two antennas; put your own numbers in, then")
    print(f"rislab localise --data {shlex.quote(path)}")
    return 0


def run_data(path: str, counts: list[int] | None, as_json: bool, *, centred: bool = False) -> int:
    """Localise the sources of each measurement in a file; returns the exit code: 1 if the model explains nothing."""
    from rislab.data import measurement_files
    from rislab.music import localisation, residual

    if counts is not None and len(counts) != 1:
        raise InputError(f"sources is {counts}; allowed with --data: one number, or none to have them counted")
    batch = measurement_files.read_measurement(path)
    batch = batch.centred() if centred else batch
    say = common.printer(as_json)
    say(common.origin())
    say(f"{Path(path).name}: {describe(batch)}")
    explained, plain = True, []
    for number, measurement in enumerate(batch[each] for each in range(len(batch))):
        if len(batch) > 1:
            say(f"\nmeasurement {number}")
        located = localisation.locate(measurement, counts[0] if counts else None)
        say(position_table(located))
        explained &= located.residual.explained > residual.NOTHING
        plain.append(as_mapping(located))
    if as_json:
        common.print_json({"measurements": plain})
    return 0 if explained else 1


def describe(batch: Measurement) -> str:
    """Sizes of a measurement in one line."""
    config = batch.config
    count = f"{len(batch)} measurements of " if len(batch) > 1 else ""
    sizes = f"{config.snapshots} snapshots at {config.antennas} antennas, {config.elements} elements"
    return f"{count}{sizes}, {config.wavefront} waves of {config.wavelength:.4g} m, {config.symbols} symbols"


def position_table(located: Localisation) -> str:
    """Positions with standard errors, and notes on them, a line each."""
    rows = located.rows()
    counted = "counted by BIC" if located.counted else "as given"
    table = Table(COLUMNS)
    lines = [f"{len(rows)} source{'s' * (len(rows) != 1)} ({counted})", table.head()]
    for number, row in enumerate(rows, start=1):
        cells = [_to_its_digits(row[name], row[f"{name}_error"]) for name in ("azimuth", "elevation", "range")]
        spread = row["position_error"]
        # A standard error beyond these limits says only that the data do not determine the quantity.
        most = {"azimuth": 180.0, "elevation": 90.0, "range": row["range"]}
        for place, (name, limit) in enumerate(most.items()):
            if row[f"{name}_error"] > limit:
                cells[place], spread = "not known", math.inf
        cells.append(f"± {spread:.3g}" if math.isfinite(spread) else "—")
        lines.append(table.row(str(number), *cells, f"{row['power_db']:.1f}"))
    lines.append(located.residual.verdict())
    lines += [located.hint] if located.hint else []
    return "\n".join([*lines, *(f"note: {note}" for note in located.notes)])


def _to_its_digits(value: float, error: float) -> str:
    """A value to the digits that its standard error leaves."""
    if math.isnan(value):
        return "—"
    if error == 0:
        return f"{value:.6g} (known)"
    return with_error(value, error)


def as_mapping(located: Localisation) -> dict[str, Any]:
    """The content of position_table() for JSON."""
    left = located.residual
    numbers = {name: getattr(left, name) for name in ("share", "chance", "over_noise", "further", "further_chance")}
    return {
        "sources": located.rows(),
        "counted": located.counted,
        "residual": numbers | {"explained": left.explained, "verdict": left.verdict()},
        "hint": located.hint,
        "notes": located.notes,
    }
