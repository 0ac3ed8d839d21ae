"""Measurements, baselines, databases of searches and run folders, spoilt: each is used, or refused in one sentence.

What reads them may use MEMORY more than the process has; `make soak` tries ten times as many.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from rislab.checkup.output.silencing import Baseline, KnownFinding
from rislab.data import mat_hdf5_files
from rislab.data.measurement_files import read_measurement, template_fields, write_template
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.model.network import CovarianceNet
from rislab.sanity.overfit import config_of_run
from rislab.training import run_folder
from rislab.training.config import TrainConfig
from rislab.tuning.storage import FILE, open_storage
from rislab.tuning.study import best_trial, open_study, read_trials
from rislab.tuning.tuning_config import TuningConfig
from tests.reliability.strange_inputs import PLAIN, cases, refused_or_used, spoilt

MEMORY = 2**30
# A few bytes anywhere, half of them among the first, where sizes and types stand.
PLACES = st.integers(0, 600) | st.integers(0, 10**9)
VALUES = st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)
SPOILS = st.lists(st.tuples(PLACES, VALUES), max_size=6)
CUTS = st.just(0) | st.integers(0, 10**9)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def measurements(folder: Path) -> dict[str, bytes]:
    """By ending, what the library and others write: packed, in older and in newer formats."""
    made = {}
    for suffix in (".npz", ".csv", ".mat", ".h5"):
        write_template(folder / f"made{suffix}")
        made[suffix] = (folder / f"made{suffix}").read_bytes()
    fields = template_fields()
    numbers = {name: value for name, value in fields.items() if not isinstance(value, str)}
    for name, write in (
        ("packed.npz", lambda buffer: np.savez_compressed(buffer, **fields)),
        ("packed.mat", lambda buffer: scipy.io.savemat(buffer, fields, do_compression=True)),
        ("version 4.mat", lambda buffer: scipy.io.savemat(buffer, numbers, format="4")),
        ("packed.h5", packed_hdf5),
    ):
        buffer = io.BytesIO()
        write(buffer)
        made[name] = buffer.getvalue()
    return made


def packed_hdf5(buffer: io.BytesIO) -> None:
    with h5py.File(buffer, "w", libver="latest") as file:
        for name, value in template_fields().items():
            packed = {"chunks": True, "compression": "gzip"} if np.size(value) > 4 else {}
            file.create_dataset(name, data=value, **packed)


def forked(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
    """What a new process of Python would do for a MAT or HDF5 file, in a hundredth of the time."""
    said, to_say = os.pipe()
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        os.dup2(to_say, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        mat_hdf5_files.sys.stdout = open(1, "w")  # noqa: SIM115
        code = mat_hdf5_files.convert(*words[3:])
        mat_hdf5_files.sys.stdout.flush()
        os._exit(code)
    os.close(to_say)
    with open(said, "rb") as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return subprocess.CompletedProcess(words, code, text)


@pytest.mark.slow
def test_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = measurements(tmp_path)
    monkeypatch.setattr(subprocess, "run", forked)

    @cases(100)
    @given(kind=st.sampled_from(list(made)), spoils=SPOILS, cut=CUTS)
    def tried(kind: str, spoils: Any, cut: int) -> None:
        file = tmp_path / f"spoilt.{kind.rpartition('.')[2]}"
        file.write_bytes(spoilt(made[kind], spoils, cut))
        refused_or_used(lambda: read_measurement(file))

    tried()


CELLS = st.sampled_from(["snapshots", "codes", "rows", "0", "1", "-1", "1e999", "nan", "", "wavefront", "9" * 400])


@cases(30)
@given(rows=st.lists(st.lists(CELLS | st.text(max_size=6), max_size=6).map(",".join), max_size=8))
def test_tables_of_any_cells(rows: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["quantity,row,column,real,imag", *rows]), encoding="utf-8")
    refused_or_used(lambda: read_measurement(tmp_path / "a.csv"))


@cases(80)
@given(spoils=SPOILS, cut=CUTS, count=PLAIN, content=st.none() | PLAIN, rows=st.none() | st.lists(PLAIN, max_size=2))
def test_baselines(spoils: Any, cut: int, count: Any, content: Any, rows: Any, tmp_path: Path) -> None:
    """The file that was made, spoilt; with another count; any rows; any JSON."""
    file = tmp_path / "known.json"
    text = Baseline([KnownFinding("C1", "never divided", "train.py", "loss.backward()  # π")]).text()
    plain = json.loads(text)
    if rows is not None:
        plain["findings"] = rows
    else:
        plain["findings"][0]["count"] = count
    for written in (spoilt(text.encode(), spoils, cut), *(json.dumps(one).encode() for one in (plain, content))):
        file.write_bytes(written)
        refused_or_used(lambda: Baseline.from_file(str(file)))


@pytest.mark.slow
def test_databases_of_searches(tmp_path: Path) -> None:
    config = TuningConfig()
    stored = open_storage(tmp_path)
    study = open_study(stored, config, "tuning")
    study.tell(study.ask(), 1.0)
    stored.storage.engine.dispose()
    content = (tmp_path / FILE).read_bytes()

    @cases(20)
    @given(spoils=SPOILS, cut=CUTS)
    def tried(spoils: Any, cut: int) -> None:
        (tmp_path / FILE).write_bytes(spoilt(content, spoils, cut))

        def call() -> None:
            stored = open_storage(tmp_path)
            with stored.errors():
                best_trial(read_trials(open_study(stored, config, "tuning")), config)

        refused_or_used(call)

    tried()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run."""
    folder = tmp_path_factory.mktemp("run")
    data = simulate(SceneConfig.preset("classroom"), 16, seed=0)
    list(run_folder.train(folder, CovarianceNet.build(data.config), data, TrainConfig(epochs=1, micro_batch=16)))
    names = (run_folder.CONFIG, run_folder.RECORDS, run_folder.CHECKPOINT)
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_run_folders(parts: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each part is there, is not, is another's content, a folder, a link to itself, or a link to nowhere."""
    states = st.sampled_from(["there", "there", "none", "folder", "loop", "nowhere", "empty", *parts])
    data = simulate(SceneConfig.preset("classroom"), 16, seed=0)

    def train(folder: Path) -> None:
        config = TrainConfig(epochs=1, micro_batch=16)
        next(iter(run_folder.train(folder, CovarianceNet.build(data.config), data, config)), None)

    @cases(40)
    @given(st.tuples(*[states] * len(parts)))
    def tried(chosen: tuple[str, ...]) -> None:
        folder = tmp_path_factory.mktemp("spoilt")
        for name, state in zip(parts, chosen, strict=True):
            if state == "folder":
                (folder / name).mkdir()
            elif state in ("loop", "nowhere"):
                (folder / name).symlink_to(name if state == "loop" else "not there")
            elif state != "none":
                (folder / name).write_bytes(parts.get(name if state == "there" else state, b""))
        for call in (
            run_folder.read_config, run_folder.load_model, run_folder.read_records, config_of_run, train,
        ):  # fmt: skip
            refused_or_used(lambda: call(folder))  # noqa: B023 - called at once

    tried()
