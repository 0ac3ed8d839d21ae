"""Many reports of one notebook: each combination of a grid in a process of its own, then one page to compare them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from rislab import files, provenance
from rislab.errors import InputError, check_number
from rislab.reports import gallery, measured, notebooks, runner
from rislab.reports.processes import in_processes

MOST = 1000  # cells
RECORDS = "cells"


@dataclass(frozen=True)
class SweepCell:
    """One combination of a grid."""

    name: str  # of its files
    values: dict[str, object]  # what the grid gives it
    parameters: dict[str, object]  # all values, defaults included
    key: str  # digest of all that its report depends on; a report with another key is not reused


@dataclass(frozen=True)
class CellResult:
    """What the report of a cell came to."""

    name: str  # of the cell
    verdict: str  # see runner.Report
    error: str  # of the report
    closing: str  # of the report
    seconds: float  # from the start of its kernel to its files
    numbers: dict[str, float]  # what it measured, by name
    reused: bool = False  # whether it was there already


def parse_grid(chosen: gallery.NamedSet, texts: Sequence[str]) -> dict[str, list[object]]:
    """A grid as it is typed: `accumulation_steps=1,2,4 precision=fp32,bf16`; commas within [] separate nothing.

    Args:
        chosen: the notebook with its values.
        texts: one for each parameter.

    Raises:
        InputError: for text of another form, an unknown parameter, a value of a wrong type, or one that comes twice.
    """
    axes: dict[str, list[object]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        parts = [part.strip() for part in re.split(r",(?![^\[]*\])", listed)]
        if not equals or not all(parts):
            raise InputError(f"grid holds {text!r}; allowed: NAME=A,B,…")
        if name in axes:
            raise InputError(f"grid names {name} twice; allowed: once")
        values = [notebooks.parse_values(chosen.path, {name: part})[name] for part in parts]
        for value in values:
            if values.count(value) > 1:
                raise InputError(f"grid of {name} holds {value!r} twice; allowed: once")
        axes[name] = values
    if not axes:
        raise InputError("the grid is empty; allowed: at least one NAME=A,B,…")
    return axes


def sweep_cells(
    chosen: gallery.NamedSet, axes: Mapping[str, Sequence[object]], base: Mapping[str, object]
) -> list[SweepCell]:
    """All combinations, the last axis fastest; each is checked before any is run.

    Args:
        chosen: the notebook with its values.
        axes: see parse_grid().
        base: values of all cells beyond those of `chosen`.

    Raises:
        InputError: for too many cells, and what the notebook's own check refuses, with the cell named.
    """
    size = math.prod(len(each) for each in axes.values())
    if size > MOST:
        raise InputError(f"the grid has {size} cells; allowed: at most {MOST}")
    from rislab.reports import parameter_checks

    check = parameter_checks.check_for(chosen.notebook)
    source = chosen.path.read_bytes() + provenance.commit(chosen.path.parent).encode()
    made = []
    for combination in product(*axes.values()):
        values: dict[str, object] = dict(zip(axes, combination, strict=True))
        name = "-".join([chosen.name, *(_word(f"{key}-{value}") for key, value in values.items())])
        given = {**chosen.parameters, **base, **values}
        try:
            _, merged = runner.checked_values(chosen.path, given, check)
        except InputError as error:
            which = ", ".join(f"{key} = {value}" for key, value in values.items())
            raise InputError(f"cell {which}: {error}") from None
        key = hashlib.sha256(source + json.dumps(merged, sort_keys=True).encode()).hexdigest()
        made.append(SweepCell(name, values, merged, key))
    return made


def run_sweep(
    chosen: gallery.NamedSet, wanted: Sequence[SweepCell], out: Path, *, workers: int | None = None
) -> Iterator[CellResult]:
    """Run the missing reports; yields the results of existing reports first, then each new one as it comes.

    Reports of the same notebook, values and commit that passed are reused: an interrupted sweep goes on.

    Args:
        chosen: see sweep_cells().
        wanted: from sweep_cells().
        out: folder of the reports.
        workers: processes, each with a kernel of one intra-op thread; one a core if None.

    Raises:
        InputError: if a file could not be written, or a process was killed; what is finished stays.
    """
    files.check_writable(out)
    workers = provenance.cores() if workers is None else workers
    check_number("workers", workers, 1, 1024, integer=True)
    left = []
    for cell in wanted:
        known = earlier_result(cell, out)
        if known is not None:
            yield known
        else:
            left.append(cell)
    if not left:
        return
    yield from in_processes(partial(_report, chosen, out), left, workers)


def _report(chosen: gallery.NamedSet, out: Path, cell: SweepCell) -> CellResult:
    began = time.perf_counter()
    # Its parameters were checked before, all cells at once.
    report = runner.run_notebook(
        chosen.notebook,
        cell.parameters,
        out=out,
        folder=chosen.path.parent,
        progress=False,
        saved_as=cell.name,
        question=chosen.question(cell.values),
    )
    numbers = measured.measured_numbers(notebooks.read_notebook(report.notebook))
    seconds = time.perf_counter() - began
    result = CellResult(cell.name, report.verdict, report.error, report.closing, seconds, numbers)
    plain = {**dataclasses.asdict(result), "key": cell.key, "values": cell.values}
    files.replace(out / RECORDS / f"{cell.name}.json", json.dumps(plain, indent=1).encode())
    return result


def earlier_result(cell: SweepCell, out: Path) -> CellResult | None:
    """The result of a report that is there, passed, and would be the same again; else None."""
    path = out / RECORDS / f"{cell.name}.json"
    pages = [out / f"{cell.name}{suffix}" for suffix in (".html", ".ipynb")]
    if not all(one.exists() for one in (path, *pages)):
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        fields = {field.name: plain[field.name] for field in dataclasses.fields(CellResult)}
        same = plain["key"] == cell.key and plain["verdict"] == "passed"
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return CellResult(**{**fields, "reused": True}) if same else None


def _word(text: str) -> str:
    """Text as part of a file's name; a digest keeps apart texts that had to be changed."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)
    return plain if plain == text else f"{plain.strip('_')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
