"""MAT and HDF5 files, read by a process of its own: `python -P mat_hdf5_files.py FILE TARGET BYTES NAME …`.

Their libraries are written in C, and a damaged file may crash the process that reads it. The arrays go to TARGET, an
NPZ file of plain arrays. If a file is refused, the reason goes to the standard output, and the exit code is 1. Nothing
of this package is imported, so that the process starts at once.
"""

from __future__ import annotations

import importlib
import math
import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MATLAB_TABLES = ("double", "single", "int", "uint", "logical", "char")
SECONDS = 20  # of the processor


class RefusedError(Exception):
    """Raised for a file that holds what is not read; its text is a sentence."""


def check_size(size: int, most: int) -> None:
    """Refuse what is larger than `most` bytes."""
    if size > most:
        raise RefusedError(f"it unpacks to more than {most >> 20} MB; allowed: a measurement that is smaller")


def read_mat(file: Path, most: int, names: Sequence[str]) -> dict[str, Any]:
    """The variables of a MAT file that have one of the names; None stands for the others."""
    io = importlib.import_module("scipy.io")
    limit_memory(most)
    check_size(_unpacked_bytes(file, most), most)
    try:
        kinds = {name: (kind, shape) for name, shape, kind in io.whosmat(file)}
        for name in names:
            kind, shape = kinds.get(name, ("double", ()))
            if not kind.startswith(MATLAB_TABLES):
                raise RefusedError(f"{name} is a {kind} of MATLAB; allowed: a table of numbers, or a text")
            check_size(16 * math.prod(shape), most)
        wanted = [name for name in kinds if name in names]
        content = io.loadmat(file, squeeze_me=False, variable_names=wanted) if wanted else {}
    except NotImplementedError:
        # Version 7.3 is an HDF5 file whose axes run the other way round.
        return read_hdf5(file, most, names)
    return dict.fromkeys(kinds) | {name: content[name] for name in wanted}


def _unpacked_bytes(file: Path, most: int) -> int:
    """Bytes that the packed parts of a MAT file of version 5 unpack to; it stops where they are too many."""
    count = 0
    with file.open("rb") as handle:
        handle.seek(128)
        while count <= most and len(tag := handle.read(8)) == 8:
            kind, size = struct.unpack("<II", tag)
            if kind == 15:
                unpack, packed = zlib.decompressobj(), handle.read(min(size, most))
                while packed and count <= most:
                    count += len(unpack.decompress(packed, 2**20))
                    packed = unpack.unconsumed_tail
            else:
                handle.seek(size, 1)
    return count


def read_hdf5(file: Path, most: int, names: Sequence[str]) -> dict[str, Any]:
    """The datasets and attributes of an HDF5 file that have one of the names; None stands for the other datasets."""
    h5py = importlib.import_module("h5py")
    limit_memory(most)
    fields: dict[str, Any] = {}
    with h5py.File(file, "r") as content:
        for name in content:
            if isinstance(content.get(name, getlink=True), h5py.ExternalLink):
                raise RefusedError(f"{name} is a link to another file; allowed: data in this file")
            if name not in names:
                fields[name] = None
                continue
            data = content[name]
            if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
                raise RefusedError(f"{name} is no plain table of this file; allowed: a dataset")
            check_size(data.nbytes, most)
            fields[name] = _values(data)
        return fields | {name: value for name, value in content.attrs.items() if name in names}


def _values(data: Any) -> Any:
    """The values of a dataset: complex numbers and texts as MATLAB writes them too."""
    values = data[()]
    kind = data.attrs.get("MATLAB_class")
    if kind == b"char":
        return "".join(chr(code) for code in np.asarray(values).reshape(-1))
    if isinstance(values, np.ndarray) and values.dtype.names == ("real", "imag"):
        values = values["real"] + 1j * values["imag"]
    return values if kind is None else np.asarray(values).T


def limit_memory(most: int) -> None:
    """Let the kernel grant at most twice the memory of the largest measurement from now on."""
    if sys.platform == "linux":
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, size + 2 * most)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def write_npz(target: Path, fields: Mapping[str, Any]) -> None:
    """Write fields as the parts of an NPZ file, whatever their names are."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, value in fields.items():
            array = np.zeros(0) if value is None else np.asarray(value)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array.astype("S") if array.dtype == object else array)


def convert(file: str, target: str, most: str, *names: str) -> int:
    """Read a file and write its tables; returns the exit code."""
    kind, read = ("MAT", read_mat) if file.lower().endswith(".mat") else ("HDF5", read_hdf5)
    _limit(resource.RLIMIT_CPU, SECONDS)
    try:
        write_npz(Path(target), read(Path(file), int(most), names))
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        text = reason if isinstance(error, RefusedError) else f"it is no {kind} file ({reason})"
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(convert(*sys.argv[1:]))
