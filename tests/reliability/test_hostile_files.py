"""Files made to run code, to fill the memory or to never end: each is refused in one sentence, within limits.

Each is opened in a process of its own, forked from one that has imported everything: at most MEMORY more than that had,
and SECONDS of the processor; the kernel ends what needs more.
"""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from rislab.training.state import FORMAT, MAGIC, PARTS

pytestmark = pytest.mark.process
MEMORY, SECONDS = 512, 20  # MB, s; SECURITY.md names them
ZEROS, BOMB = bytes(2**20), 300  # MB


class Trap:
    """What runs `touch PATH` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w')",)


def checkpoint(content: bytes) -> bytes:
    return MAGIC + zlib.crc32(content).to_bytes(4, "big") + content


def saved(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def packed(content: bytes) -> bytes:
    """The same archive with all parts deflated, and its largest grown by BOMB."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for part in old.infolist():
            with new.open(part.filename, "w", force_zip64=True) as file:
                if part.filename.endswith("data/0"):
                    for _ in range(BOMB):
                        file.write(ZEROS)
                else:
                    file.write(old.read(part))
    return buffer.getvalue()


def mat(name: str, values: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {name: values})
    return buffer.getvalue()


def packed_mat() -> bytes:
    """A MAT file whose one packed part unpacks to zeros."""
    packer = zlib.compressobj(1)
    body = packer.compress(struct.pack("<II", 14, 2**32 - 1))
    body += b"".join(packer.compress(ZEROS) for _ in range(BOMB)) + packer.flush()
    return mat("x", 1.0)[:128] + struct.pack("<II", 15, len(body)) + body


def npz_bomb() -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("snapshots.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "<c16", "fortran_order": False, "shape": (2**16 * BOMB,)})
        for _ in range(BOMB):
            file.write(ZEROS)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def claimed(shape: tuple[int, ...]) -> bytes:
    """An NPZ whose header claims an array that is not there."""
    array, buffer = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<c16", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("snapshots.npy", array.getvalue())
    return buffer.getvalue()


def hdf5(fill: Callable[[h5py.File], object]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def database(script: str, folder: Path) -> bytes:
    path = folder / "made.sqlite3"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path.read_bytes()


LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
NOTEBOOK = '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": %s}'
ROW = '{"code": "C1", "name": "x", "path": "a.py", "text": "x", "where": "", "count": %s}'
BASELINE = '{"version": 1, "findings": %s}'


def links(file: h5py.File) -> None:
    file["snapshots"] = h5py.ExternalLink("/etc/passwd", "/")


def outside(file: h5py.File) -> None:
    file.create_dataset("snapshots", (16,), "u1", external=[("/etc/passwd", 0, 16)])


def endless(file: h5py.File) -> None:
    file.create_dataset("snapshots", (10**6, 10**6), "c16", chunks=(1, 1000), compression="gzip")


def hostile(trap: Path, folder: Path) -> dict[str, tuple[list[str], str, bytes]]:
    """By what it is: the command, the file's name, and its content; {} in the command is the file, {.} its folder."""
    resume, localise = ["resume", "{}"], ["localise", "--data", "{}"]
    train, tune = ["train", "--config", "{}"], ["tune", "--skip-ladder", "--run", "{.}"]
    grade, baseline = ["grade", "{.}"], ["checkup", "--baseline", "{}", "none.py"]
    rows = [f"snapshots,{n},0,1,0" for n in range(2**20 * 2)]
    return {
        "checkpoint with code": (resume, "checkpoint.pt", checkpoint(saved(Trap(trap)))),
        "checkpoint that is a pickle": (resume, "checkpoint.pt", checkpoint(pickle.dumps(Trap(trap)))),
        "checkpoint, packed": (
            *(resume, "checkpoint.pt"),
            checkpoint(packed(saved({"format": FORMAT, **dict.fromkeys(PARTS), "model": {"x": torch.zeros(9)}}))),
        ),
        "weights with a header of gigabytes": (
            *(["localise", "--weights", "{}"], "w.safetensors"),
            struct.pack("<Q", 2**40) + b"{",
        ),
        "YAML, nested aliases": (train, "c.yaml", f"{LAUGHS}scenes: *a29\n".encode()),
        "YAML, nested aliases in a name": (train, "c.yaml", f"{LAUGHS}? *a29\n: 1\n".encode()),
        "YAML, nested merges": (train, "c.yaml", f"{MERGES}scenes: *a29\n".encode()),
        "YAML of many digits": (train, "c.yaml", b"scenes: 1" + b":59" * 300_000),
        "YAML of megabytes": (train, "c.yaml", b"scenes: [" + b"[]," * 2**20 + b"]"),
        "YAML, deep": (train, "c.yaml", b"scenes: " + b"[" * 10**6),
        "space with nested aliases": (["tune", "--space", "{}"], "s.yaml", f"{LAUGHS}lr: *a29\n".encode()),
        "parameters with nested aliases": (["report", "start", "--config", "{}"], "p.yaml", LAUGHS.encode()),
        "NPZ with a pickle": (localise, "m.npz", npz(snapshots=np.array([Trap(trap)], dtype=object))),
        "NPZ that is a pickle": (localise, "m.npz", pickle.dumps(Trap(trap))),
        "NPZ, packed": (localise, "m.npz", npz_bomb()),
        "NPZ that claims terabytes": (localise, "m.npz", claimed((10**13,))),
        "NPZ that claims gigabytes": (localise, "m.npz", claimed((10**8,))),
        "HDF5 with a link to another file": (localise, "m.h5", hdf5(links)),
        "HDF5 with data in another file": (localise, "m.h5", hdf5(outside)),
        "HDF5 of terabytes": (localise, "m.h5", hdf5(endless)),
        "HDF5 with a loop of links": (
            localise,
            "m.h5",
            hdf5(lambda f: f.__setitem__("snapshots", h5py.SoftLink("/snapshots"))),
        ),
        "MAT, packed": (localise, "m.mat", packed_mat()),
        "MAT with objects": (localise, "m.mat", mat("snapshots", np.array([{"a": 1}, "b"], dtype=object))),
        "MAT with a struct": (localise, "m.mat", mat("snapshots", {"a": 1})),
        "CSV of 40 MB": (localise, "m.csv", ("quantity,row,column,real,imag\n" + "\n".join(rows)).encode()),
        "CSV with one field of megabytes": (localise, "m.csv", b"quantity,row,column,real,imag\n" + b"9" * 2**22),
        "notebook of 100 MB": (grade, "n.ipynb", (NOTEBOOK % f"[{','.join(['{}'] * 10)}]").encode() + b" " * 10**8),
        "notebook of small lists": (grade, "n.ipynb", (NOTEBOOK % f"[{','.join(['[]'] * 5 * 10**6)}]").encode()),
        "notebook, deep": (grade, "n.ipynb", (NOTEBOOK % ("[" * 10**6)).encode()),
        "baseline, deep": (baseline, "b.json", (BASELINE % ("[" * 10**6)).encode()),
        "baseline that counts for ever": (baseline, "b.json", (BASELINE % f"[{ROW % '1e999'}]").encode()),
        "baseline of another program": (baseline, "b.json", b'[{"version": 1}]'),
        "study of another program": (
            *(tune, "study.sqlite3"),
            database(
                "CREATE TABLE studies (id TEXT); CREATE TABLE version_info (x); INSERT INTO studies VALUES (1)", folder
            ),
        ),
        "study of another program, with a view": (
            *(tune, "study.sqlite3"),
            database("CREATE TABLE t (x); CREATE VIEW studies AS SELECT x FROM t; CREATE TABLE trials (x)", folder),
        ),
        "study that is no database": (tune, "study.sqlite3", b"SQLite format 3\0" + b"\xff" * 5000),
    }


# Forks for each case: prints its exit code, its last line, the MB and the seconds that it took.
EACH = """
import contextlib, io, json, os, resource, sys
import h5py, nbformat, optuna, scipy.io, torch, torch._dynamo
import rislab
from rislab.cli.main import main
from rislab.training.loop import fit
memory, seconds, cases = int(sys.argv[1]) << 20, int(sys.argv[2]), json.load(open(sys.argv[3]))
torch.set_num_threads(1)
data = rislab.simulate(rislab.SceneConfig.preset("classroom"), 16, seed=0)
model = rislab.CovarianceNet.build(data.config)

def resume(path):
    try:
        list(fit(model, data, rislab.TrainConfig(epochs=1, micro_batch=16), resume=path))
    except rislab.InputError as error:
        print(f"rislab: {error}", file=sys.stderr)
        return 2

def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))

for words in cases:
    pid = os.fork()
    if pid == 0:
        size, before = status("VmSize"), status("VmRSS")
        # Claimed is more than used; what is used is measured below.
        resource.setrlimit(resource.RLIMIT_AS, (size + 8 * memory, size + 8 * memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        began = resource.getrusage(resource.RUSAGE_SELF)
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            code = resume(words[1]) if words[0] == "resume" else main(words)
        used = resource.getrusage(resource.RUSAGE_SELF)
        took = used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime
        grown = max(0, status("VmHWM") - before) >> 20
        print(json.dumps([code, said.getvalue(), grown, took]), flush=True)
        os._exit(0)
    status_of_child = os.waitpid(pid, 0)[1]
    if status_of_child:
        print(json.dumps([None, f"ended by {status_of_child}", 0, 0.0]), flush=True)
"""


def test_each_is_refused_in_one_sentence_within_limits(tmp_path: Path) -> None:
    trap, commands = tmp_path / "trap", {}
    for number, (what, (words, name, content)) in enumerate(hostile(trap, tmp_path).items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        places = {"{}": str(folder / name), "{.}": str(folder)}
        commands[what] = [places.get(word, word) for word in words]
    (tmp_path / "cases.json").write_text(json.dumps(list(commands.values())))
    words = [sys.executable, "-c", EACH, str(MEMORY), str(SECONDS), str(tmp_path / "cases.json")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    wrong, most, longest = [], 0, 0.0
    for what, line in zip(commands, done.stdout.splitlines(), strict=True):
        code, said, grown, took = json.loads(line)
        print(f"{what:<40} {grown:>5} MB {took:6.2f} s  {said.strip()[:150]}")
        most, longest = max(most, grown), max(longest, took)
        sentence = [text for text in said.splitlines() if text.strip()]
        # Of a class one notebook is not readable, and the others are graded.
        graded = code == 0 and commands[what][0] == "grade" and not sentence
        if (
            (not graded and (code != 2 or len(sentence) != 1))
            or len(said) > 1000
            or "Traceback" in said
            or grown > MEMORY
        ):
            wrong.append((what, code, grown, took, said[-300:]))
    print(f"at most {most} MB and {longest:.1f} s")
    assert wrong == []
    assert not trap.exists()
