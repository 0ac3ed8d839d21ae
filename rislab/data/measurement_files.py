"""Measurements in files: NPZ, MAT, HDF5 and CSV with named columns; a template of each is written.

A file holds arrays by name. `snapshots` [L,M], `codes` [L,N] and `channel` [M,N] are those of Measurement; without
codes and channel the snapshots are those of the elements themselves. `elements` [N,3] are positions in metres; or
`rows`, `columns` and `spacing` (metres) make a surface in the y-z plane. `wavelength` (metres) or `frequency` (hertz)
is needed; `wavefront`, `symbols`, `noise_power`, `pilots`, `azimuth`, `elevation` (radians) and `range` (metres) may be
there too.

A CSV file has a row for each number, with the columns quantity, row, column, real and imag, and scene for a batch.

Nothing in a file is executed: no pickle is read, and no link of an HDF5 file to another is followed.
"""

from __future__ import annotations

import csv
import difflib
import math
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rislab.data import mat_hdf5_files
from rislab.data.geometry import ArrayGeometry
from rislab.data.measurement import Measurement
from rislab.data.measurement_checks import SURFACE, snapshots_of_elements
from rislab.errors import InputError, check_number, error_text

Array = NDArray[Any]
LIGHT_SPEED = 299_792_458.0
# Of the numbers in a file: a small one may unpack to any size.
MOST_BYTES = 2**28
REQUIRED = ("snapshots", "elements", "wavelength")
TABLES = ("snapshots", *SURFACE, "elements", "noise_power", "pilots")
WORDS = ("wavefront", "symbols")
OPTIONAL = (*WORDS, "noise_power", "pilots", "azimuth", "elevation", "range")
NAMES = (
    *("snapshots", "codes", "channel", "elements", "rows", "columns", "spacing", "wavelength", "frequency"),
    *OPTIONAL,
)
COLUMNS = ("quantity", "row", "column", "real", "imag")


def read_measurement(path: Path | str) -> Measurement:
    """Read a measurement from a file; see the module for what it holds.

    Args:
        path: of a file that ends in .npz, .mat, .h5, .hdf5 or .csv.

    Raises:
        InputError: for a file that cannot be read, lacks something, or holds what Measurement refuses.
    """
    file = Path(path)
    ending = _ending(file)
    if not file.is_file():
        raise InputError(f"{file} is no file; allowed: a file with {', '.join(REQUIRED)}")
    try:
        with warnings.catch_warnings():
            # Doubts are not warnings here: those who read a file show them among their notes.
            warnings.simplefilter("ignore", UserWarning)
            return measurement_of(READERS[ending](file))
    except (InputError, mat_hdf5_files.RefusedError) as error:
        raise InputError(f"{file.name}: {error}") from None


def _ending(file: Path) -> str:
    if (ending := file.suffix.lower()) not in READERS:
        raise InputError(f"{file.name or file} ends in {file.suffix or 'nothing'!r}; allowed: {', '.join(READERS)}")
    return ending


def measurement_of(fields: Mapping[str, Any]) -> Measurement:
    """The measurement that named arrays stand for; see the module.

    Args:
        fields: by name; other names than NAMES are left alone, but for one that is nearly one of OPTIONAL.
    """
    for name in fields:
        meant = difflib.get_close_matches(name, OPTIONAL, n=1, cutoff=0.85)
        if meant and meant[0] not in fields:
            raise InputError(f"{name} is no field, did you mean {meant[0]!r}? allowed: {', '.join(NAMES)}")
    for name, value in fields.items():
        if name in TABLES and (kind := np.asarray(value).dtype).kind not in "biufc":
            raise InputError(f"{name} holds values of type {kind}; allowed: numbers")
    wavelength = _wavelength(fields)
    if "snapshots" not in fields:
        raise InputError(_lacks("snapshots", fields))
    if ("codes" in fields) != ("channel" in fields):
        raise InputError(_lacks(next(name for name in SURFACE if name not in fields), fields))
    wavefront = _word(fields, "wavefront", "spherical")
    array = ArrayGeometry(_elements(fields), wavelength, wavefront)
    options: dict[str, Any] = {
        name: _ends(name, fields[name]) for name in ("azimuth", "elevation", "range") if name in fields
    }
    options["symbols"] = _word(fields, "symbols", "varying")
    if "pilots" in fields:
        options["pilots"] = np.asarray(fields["pilots"]).reshape(-1)
    noise = _real("noise_power", fields["noise_power"]) if "noise_power" in fields else None
    snapshots = np.asarray(fields["snapshots"])
    if "codes" in fields:
        channel, codes = (_table(fields[name], array.count) for name in ("channel", "codes"))
        return Measurement(_column(snapshots, channel), codes, channel, array, noise, **options)
    # Checked here, so that a message calls the table `snapshots`, as the file does, and not `x`.
    direct = snapshots_of_elements("snapshots", _table(snapshots, array.count), array.count)
    return Measurement.direct(direct, array, noise, **options)


def _lacks(name: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, [each for each in fields if each not in NAMES], n=1, cutoff=0.5)
    meant = f", perhaps {close[0]!r}" if close else ""
    held = ", ".join(fields) or "nothing"
    return f"{name} is missing{meant}; it holds {held}; allowed: {', '.join(NAMES)}"


def _wavelength(fields: Mapping[str, Any]) -> float:
    if not {"wavelength", "frequency"} & set(fields):
        raise InputError(_lacks("wavelength", fields))
    if "frequency" not in fields:
        return _number("wavelength", fields["wavelength"])
    frequency = _number("frequency", fields["frequency"])
    check_number("frequency", frequency, 1e6, 1e15)
    expected = LIGHT_SPEED / frequency
    wavelength = _number("wavelength", fields["wavelength"]) if "wavelength" in fields else expected
    # A percent covers the speed of light in air, and rounding of either.
    if not math.isclose(wavelength, expected, rel_tol=0.01):
        text = f"wavelength is {wavelength:g}, and frequency {frequency:g} has a wavelength of {expected:.4g}"
        raise InputError(f"{text}; allowed: one of them, or two that agree")
    return wavelength


def _number(name: str, value: Any) -> float:
    values = np.asarray(value).reshape(-1)
    if values.size != 1 or values.dtype.kind not in "iufc":
        raise InputError(f"{name} holds {values.size} values of type {values.dtype}; allowed: one number")
    return float(_real(name, values)[0])


def _real(name: str, value: Any) -> Array:
    """A list of real numbers; a file may hold all its numbers as complex ones."""
    values = np.asarray(value).reshape(-1)
    if np.iscomplexobj(values) and values.imag.any():
        raise InputError(f"{name} is {complex(values[values.imag != 0][0])}; allowed: real numbers")
    return values.real


def _ends(name: str, value: Any) -> float | tuple[float, float]:
    values = np.asarray(value).reshape(-1)
    if values.size not in (1, 2) or values.dtype.kind not in "iufc":
        raise InputError(f"{name} holds {values.size} values; allowed: one number, or the smallest and the largest")
    ends = [float(each) for each in _real(name, values)]
    return ends[0] if len(ends) == 1 else (ends[0], ends[1])


def _word(fields: Mapping[str, Any], name: str, usual: str) -> str:
    if name not in fields:
        return usual
    value = np.asarray(fields[name]).reshape(-1)
    word = value[0] if value.size else ""
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


def _elements(fields: Mapping[str, Any]) -> Any:
    if "elements" in fields:
        elements = np.asarray(fields["elements"])
        if np.iscomplexobj(elements) and elements.imag.any():
            raise InputError("elements are complex; allowed: [N,3], x, y and z of each in metres")
        return elements.real
    if not {"rows", "columns", "spacing"} <= set(fields):
        raise InputError(_lacks("elements", fields))
    rows, columns = (_count(name, _number(name, fields[name])) for name in ("rows", "columns"))
    spacing = _number("spacing", fields["spacing"])
    return np.asarray(ArrayGeometry.surface((rows, columns), 1.0, spacing=spacing).elements.double())


def _count(name: str, value: float) -> int:
    count = int(value) if value.is_integer() else value
    check_number(name, count, 1, 4096, integer=True)
    return int(count)


def _table(values: Any, elements: int) -> Array:
    """A list of N numbers as one row: files write a single antenna or code without its axis."""
    table = np.asarray(values)
    return table.reshape(1, -1) if table.ndim == 1 and table.size == elements else table


def _column(snapshots: Array, channel: Array) -> Array:
    """A list of L snapshots of one antenna as one column."""
    return snapshots.reshape(-1, 1) if snapshots.ndim == 1 and channel.shape[0] == 1 else snapshots


def _read_npz(file: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            mat_hdf5_files.check_size(sum(part.file_size for part in archive.infolist()), MOST_BYTES)
        with np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in content.files if name in NAMES} | {
                name: None for name in content.files if name not in NAMES
            }
    except mat_hdf5_files.RefusedError:
        raise
    except Exception as error:
        raise _not_read("NPZ file of plain arrays", error) from None


def _read_mat_or_hdf5(file: Path) -> dict[str, Any]:
    """The arrays of a MAT or HDF5 file, read by a process of its own; see mat_hdf5_files."""
    _package(*(("scipy.io", "MAT") if file.suffix.lower() == ".mat" else ("h5py", "HDF5")))
    with tempfile.TemporaryDirectory(prefix="rislab-") as folder:
        target = Path(folder) / "tables.npz"
        words = [mat_hdf5_files.__file__, str(file.absolute()), str(target), str(MOST_BYTES), *NAMES]
        done = subprocess.run(
            [sys.executable, "-P", *words], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode == 0:
            return _read_npz(target)
    reason = done.stdout.decode(errors="replace") if done.returncode == 1 else ""
    raise InputError(reason or "it is damaged, or asks for too much memory or time: its reader did not come to an end")


def _read_csv(file: Path) -> dict[str, Any]:
    # In memory an entry takes some ten times the bytes of its row.
    mat_hdf5_files.check_size(8 * file.stat().st_size, MOST_BYTES)
    cells: dict[str, dict[tuple[int, int, int], complex]] = {}
    words: dict[str, str] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            names = reader.fieldnames or []
            names = reader.fieldnames = [name.strip() for name in names]
            if missing := [name for name in COLUMNS[:4] if name not in names]:
                mark = next((mark for mark in (";", "\t") if len(names) == 1 and mark in names[0]), "")
                if mark:
                    raise InputError(f"columns stand apart by {mark!r}; allowed: by ',', with a point in 0.5")
                raise InputError(
                    f"columns {', '.join(missing)} are missing; it has {', '.join(names) or 'none'}; "
                    f"allowed: {', '.join(COLUMNS)}, and scene"
                )
            for row in reader:
                line, name = f"line {reader.line_num}", (row["quantity"] or "").strip()
                if None in row:
                    raise InputError(
                        f"{line} has {len(names) + len(row[None])} columns; "
                        f"allowed: {', '.join(names)}, with a point in 0.5"
                    )
                if name in WORDS:
                    words[name] = (row["real"] or "").strip()
                    continue
                scene, across, along = (_cell(row, line, axis, int) for axis in ("scene", "row", "column"))
                place = (scene, across, along)
                value = complex(_cell(row, line, "real", float), _cell(row, line, "imag", float))
                before = cells.setdefault(name, {}).setdefault(place, value)
                if before is not value and before != value:
                    raise InputError(f"{line}: {name}{list(place)} stands in the file twice")
    except (UnicodeDecodeError, csv.Error) as error:
        raise _not_read("table of numbers", error) from None
    return {name: _dense(name, values) for name, values in cells.items()} | words


def _cell(row: Mapping[str, str | None], line: str, column: str, kind: type[Any]) -> Any:
    """A number of a CSV file; only that of the column real has to be there."""
    text = (row.get(column) or "").strip() or ("" if column == "real" else "0")
    try:
        return kind(text)
    except ValueError:
        example = "a whole number" if kind is int else "a number such as 0.5"
        raise InputError(f"{line}: {column} of {row['quantity']} is {text!r}; allowed: {example}") from None


def _dense(name: str, values: Mapping[tuple[int, int, int], complex]) -> Array:
    """[scene, row, column], without axes of length 1 that the quantity has not."""
    places = np.array(list(values))
    if places.min() < 0:
        raise InputError(f"{name} has a negative row, column or scene; allowed: counted from 0")
    shape = tuple(int(size) for size in places.max(axis=0) + 1)
    if math.prod(shape) != len(values):
        raise InputError(
            f"{name} has {len(values)} entries in a table of {' × '.join(map(str, shape))}; "
            "allowed: all of them, rows and columns counted from 0"
        )
    table = np.empty(shape, dtype=complex)
    table[tuple(places.T)] = list(values.values())
    plain = table if table.imag.any() else table.real
    return plain[0] if shape[0] == 1 else plain


def _not_read(kind: str, error: Exception) -> InputError:
    """The error of a file that a foreign reader refused; such readers raise exceptions of any type."""
    return InputError(f"it is no {kind} ({error_text(error) or type(error).__name__})")


def _package(name: str, kind: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise InputError(f"{kind} files need {package}; install it with pip install 'rislab[data]'") from None


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _read_npz,
    ".mat": _read_mat_or_hdf5,
    ".h5": _read_mat_or_hdf5,
    ".hdf5": _read_mat_or_hdf5,
    ".csv": _read_csv,
}


def template_fields() -> dict[str, Any]:
    """A small measurement of a 4×4 surface at two antennas, as an example of what a file holds."""
    rng = np.random.default_rng(0)
    rows, columns, spacing, wavelength = 4, 4, 0.05, 0.1
    length, antennas, elements = 24, 2, rows * columns

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / math.sqrt(2)

    codes, channel = np.exp(2j * np.pi * rng.random((length, elements))), normal(antennas, elements)
    surface = ArrayGeometry.surface((rows, columns), wavelength, spacing=spacing, dtype=torch.float64)
    azimuth, elevation, distance = torch.tensor([0.4, -0.2, 1.0], dtype=torch.float64)
    steering = surface.steering(azimuth, elevation, distance).numpy()
    clean = np.einsum("mn,ln,n->lm", channel, codes, steering)
    noise_power = float(np.mean(np.abs(clean) ** 2)) / 100
    return {
        "snapshots": clean + math.sqrt(noise_power) * normal(length, antennas),
        "codes": codes,
        "channel": channel,
        "rows": rows,
        "columns": columns,
        "spacing": spacing,
        "wavelength": wavelength,
        "symbols": "constant",
        "noise_power": noise_power,
    }


def write_template(path: Path | str) -> None:
    """Write template_fields() in the format that the name of the file ends in.

    Raises:
        InputError: for another ending, a file that is there already, or one that cannot be written.
    """
    file = Path(path)
    ending = _ending(file)
    if file.exists():
        raise InputError(f"{file} is there already; allowed: a new name")
    fields = template_fields()
    try:
        if ending == ".npz":
            np.savez(file, **fields)
        elif ending == ".mat":
            _package("scipy.io", "MAT").savemat(file, fields)
        elif ending == ".csv":
            _write_csv(file, fields)
        else:
            with _package("h5py", "HDF5").File(file, "w") as content:
                for name, value in fields.items():
                    content[name] = value
    except OSError as error:
        raise InputError(f"{file} could not be written: {error.strerror or error}") from None


def _write_csv(file: Path, fields: Mapping[str, Any]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for name, value in fields.items():
            if isinstance(value, str):
                writer.writerow((name, 0, 0, value, ""))
                continue
            table = np.atleast_2d(np.asarray(value))
            for (row, column), each in np.ndenumerate(table):
                writer.writerow((name, row, column, repr(float(each.real)), repr(float(each.imag))))
