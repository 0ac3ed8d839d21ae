"""Run folders and checkpoints: stopped anywhere, a run ends as if it had never been stopped; nothing is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pickle
import signal
import textwrap
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.training import run_folder
from rislab.training.loop import TrainConfig, TrainState, fit
from rislab.training.records import Record, equal_but_time
from rislab.training.state import MAGIC, read_checkpoint
from tests.children import begin_child

CONFIG = TrainConfig(epochs=3, micro_batch=8, accumulation_steps=3)
Run = tuple[list[torch.Tensor], list[Record]]  # weights and records


def build(data: SceneBatch) -> CovarianceNet:
    return CovarianceNet.build(data.config)


def state_of(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def identical(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def few(classroom: SceneBatch) -> SceneBatch:
    return classroom[:64]


@pytest.fixture(scope="module")
def straight(few: SceneBatch) -> Run:
    """A run that was never stopped."""
    model = build(few)
    records = list(fit(model, few, CONFIG, validation=few[:16]))
    return state_of(model), records


def assert_resumes_to(straight: Run, folder: Path, data: SceneBatch) -> None:
    """The run of a folder, resumed to its end, has the weights and records of one that was never stopped."""
    model = build(data)
    list(run_folder.train(folder, model, data, CONFIG, validation=data[:16]))
    records = run_folder.read_records(folder)
    assert identical(state_of(model), straight[0])
    assert len(records) == len(straight[1]) == 12
    assert all(equal_but_time(one, other) for one, other in zip(records, straight[1], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", range(1, 12))
def test_stopped_after_any_record_and_resumed_is_never_stopped(
    stop_after: int, few: SceneBatch, straight: Run, tmp_path: Path
) -> None:
    stream = run_folder.train(tmp_path / "run", build(few), few, CONFIG, validation=few[:16])
    for _ in range(stop_after):
        next(stream)
    stream.close()
    assert_resumes_to(straight, tmp_path / "run", few)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_resume_restores_every_part_of_the_state(
    precision: str, optimiser: str, few: SceneBatch, tmp_path: Path
) -> None:
    class Noisy(CovarianceNet):
        """Draws from all three random states in its forward."""

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            factor = super().forward(*inputs)
            return torch.view_as_complex(nn.functional.dropout(torch.view_as_real(factor), 0.1, self.training))

    def make() -> CovarianceNet:
        plain = build(few)
        return Noisy(plain.backbone, plain.head, plain.maps)

    config = dataclasses.replace(CONFIG, precision=precision, optimiser=optimiser)
    whole = make()
    expected = list(fit(whole, few, config))
    state = TrainState.begin(make(), len(few), config)
    stream = fit(state.model, few, config, resume=state)
    found = [next(stream) for _ in range(5)]
    stream.close()
    state.save(tmp_path / "checkpoint.pt")
    resumed = make()
    found += list(fit(resumed, few, config, resume=tmp_path))
    assert identical(state_of(resumed), state_of(whole))
    assert all(equal_but_time(one, other) for one, other in zip(found, expected, strict=True))


SCRIPT = """
import time, rislab
from rislab.training import run_folder
data = rislab.simulate(rislab.SceneConfig.preset("classroom"), 64, seed=0)
config = rislab.TrainConfig(epochs=3, micro_batch=8, accumulation_steps=3)
model = rislab.CovarianceNet.build(data.config)
try:
    for record in run_folder.train(folder, model, data, config, validation=data[:16], checkpoint_seconds=0.0):
        connection.send(record.step)
        time.sleep(0.02)
except rislab.InputError as error:
    connection.send(str(error))
    raise SystemExit(2)
"""


@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("count", [2, 7])
def test_a_killed_process_leaves_a_resumable_run(
    how: int, count: int, few: SceneBatch, straight: Run, tmp_path: Path
) -> None:
    process, connection = begin_child(SCRIPT, folder=str(tmp_path / "run"))
    for _ in range(count):
        connection.recv()
    # Somewhere within the next step or its checkpoint.
    time.sleep(0.03)
    assert process.pid is not None
    os.kill(process.pid, how)
    process.join()
    assert process.exitcode not in (0, None)
    assert_resumes_to(straight, tmp_path / "run", few)


def test_a_second_process_is_turned_away(few: SceneBatch, tmp_path: Path) -> None:
    stream = run_folder.train(tmp_path, build(few), few, CONFIG)
    next(stream)
    with pytest.raises(InputError, match="in use by another process"):
        next(run_folder.train(tmp_path, build(few), few, CONFIG))
    stream.close()
    assert len(list(run_folder.train(tmp_path, build(few), few, CONFIG))) == 11


def test_other_data_or_configuration_is_named(few: SceneBatch, tmp_path: Path) -> None:
    stream = run_folder.train(tmp_path, build(few), few, CONFIG)
    next(stream)
    stream.close()
    with pytest.raises(InputError, match=r"lr_head is 0.1, and .* was begun with 0.005"):
        next(run_folder.train(tmp_path, build(few), few, dataclasses.replace(CONFIG, lr_head=0.1)))
    with pytest.raises(InputError, match="the scenes differ"):
        other = simulate(few.config, 64, seed=1)
        next(run_folder.train(tmp_path, build(few), other, CONFIG))
    with pytest.raises(InputError, match="has shape"):
        next(run_folder.train(tmp_path, CovarianceNet.build(few.config, width=64), few, CONFIG))
    (tmp_path / run_folder.CONFIG).write_text("train: [1]\n")
    with pytest.raises(InputError, match="config.yaml: TrainConfig is given as a list; allowed"):
        next(run_folder.train(tmp_path, build(few), few, CONFIG))


def test_a_run_goes_on_where_another_processor_rounds_its_scenes_otherwise(few: SceneBatch, tmp_path: Path) -> None:
    stream = run_folder.train(tmp_path, build(few), few, CONFIG)
    next(stream)
    stream.close()
    rounded = dataclasses.replace(few, snapshots=few.snapshots * (1 + 1e-7 * torch.randn(few.snapshots.shape)))
    assert rounded.fingerprint() != few.fingerprint()
    assert list(run_folder.train(tmp_path, build(few), rounded, CONFIG))
    other = dataclasses.replace(few, snapshots=few.snapshots.clone())
    other.snapshots[3] = few.snapshots[4]
    with pytest.raises(InputError, match="the scenes differ"):
        next(run_folder.train(tmp_path, build(few), other, CONFIG))


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if how == "one bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    if how == "empty":
        path.write_bytes(b"")
    if how == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    if how == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "truncated or damaged"),
        ("one bit", "truncated or damaged"),
        ("empty", "not written by rislab"),
        ("foreign", "not written by rislab"),
        ("missing", "could not be read"),
    ],
)
def test_a_spoilt_checkpoint_is_named_and_changes_nothing(how: str, said: str, few: SceneBatch, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    TrainState.begin(build(few), len(few), CONFIG).save(path)
    spoil(path, how)
    model = build(few)
    before = state_of(model)
    with pytest.raises(InputError, match=said):
        next(fit(model, few, CONFIG, resume=path))
    assert identical(state_of(model), before)


@pytest.mark.parametrize(("part", "word"), [("python", -1), ("numpy", 2**40), ("numpy", -1), ("python", 2**80)])
def test_a_random_state_that_is_none_is_refused(part: str, word: int, few: SceneBatch, tmp_path: Path) -> None:
    """A checksum that fits says nothing of it: fuzzed checkpoints ended with an OverflowError."""
    state = TrainState.begin(build(few), len(few), CONFIG)
    state.save(tmp_path / "state.pt")
    plain = read_checkpoint(tmp_path / "state.pt")
    plain["randomness"][part][1][0] = word
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    (tmp_path / "state.pt").write_bytes(MAGIC + zlib.crc32(buffer.getvalue()).to_bytes(4, "big") + buffer.getvalue())
    model = build(few)
    before = state_of(model)
    with pytest.raises(InputError, match="does not fit"):
        next(fit(model, few, CONFIG, resume=tmp_path / "state.pt"))
    assert identical(state_of(model), before)


def test_loading_runs_no_code(few: SceneBatch, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path / 'exploded'}",))

    for writer in (lambda buffer: torch.save({"format": Bomb()}, buffer), lambda buffer: pickle.dump(Bomb(), buffer)):
        buffer = io.BytesIO()
        writer(buffer)
        content = buffer.getvalue()
        (tmp_path / "bomb.pt").write_bytes(MAGIC + zlib.crc32(content).to_bytes(4, "big") + content)
        with pytest.raises(InputError, match="more than plain data"):
            next(fit(build(few), few, CONFIG, resume=tmp_path / "bomb.pt"))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.process
def test_a_full_disk_loses_nothing(few: SceneBatch, straight: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stream = run_folder.train(run, build(few), few, CONFIG, validation=few[:16])
    for _ in range(3):
        next(stream)
    stream.close()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    full_disk = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        """
    limit = len(before[run_folder.RECORDS]) + 1500
    process, connection = begin_child(textwrap.dedent(full_disk) + SCRIPT, folder=str(run), limit=limit)
    messages = []
    with contextlib.suppress(EOFError):
        while True:
            messages.append(connection.recv())
    process.join()
    assert process.exitcode == 2
    assert "could not be written" in messages[-1]
    assert (run / run_folder.CHECKPOINT).read_bytes() == before[run_folder.CHECKPOINT]
    records = (run / run_folder.RECORDS).read_bytes()
    assert records.startswith(before[run_folder.RECORDS]) and records.endswith(b"\n")
    assert not [path for path in run.iterdir() if path.name not in before]
    assert_resumes_to(straight, run, few)


def test_a_torn_last_line_is_left_out_and_a_damaged_one_named(few: SceneBatch, tmp_path: Path) -> None:
    list(run_folder.train(tmp_path, build(few), few, CONFIG))
    path = tmp_path / run_folder.RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(run_folder.read_records(tmp_path)) == 11
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], b"{}", *lines[3:]]))
    with pytest.raises(InputError, match="line 3 of"):
        run_folder.read_records(tmp_path)
    with pytest.raises(InputError, match="could not be read"):
        run_folder.read_records(tmp_path / "nowhere")
