"""A run is a folder: config.yaml, records.jsonl (append-only), checkpoint.pt; one process at a time."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from torch import nn

from rislab import files
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_number
from rislab.model.designs import design_in
from rislab.model.network import CovarianceNet, design_of
from rislab.training.config import TrainConfig
from rislab.training.loop import fit
from rislab.training.records import Record, StepRecord, from_dict, to_dict
from rislab.training.state import TrainProgress, TrainState, read_checkpoint

CONFIG, RECORDS, CHECKPOINT, LOCK = "config.yaml", "records.jsonl", "checkpoint.pt", ".lock"

# Relative difference between numbers of the same scenes on two machines; and the digest that version 0.1 wrote.
ROUNDING, BITS = 1e-4, re.compile("[0-9a-f]{32}")

Observe = Callable[[TrainState], AbstractContextManager[object]]


def train(
    folder: Path | str,
    model: nn.Module,
    data: SceneBatch,
    config: TrainConfig,
    *,
    validation: SceneBatch | None = None,
    checkpoint_seconds: float = 5.0,
    observe: Observe = lambda state: nullcontext(),
) -> Generator[Record]:
    """fit() in a run folder: records are written as they come, and a stopped run goes on where it stopped.

    Stopped anywhere (generator closed, interrupt, kill -9) and started again with the same arguments, it ends with
    the weights and records of a run that was never stopped, bit by bit, in fp32 on one thread. Steps taken after the
    last checkpoint are taken again. For the other arguments see fit().

    Args:
        folder: of the run; made if it does not exist.
        checkpoint_seconds: write a checkpoint when the last one is this old, at every step if 0; and always on
            leaving at a step boundary.
        observe: makes the context in which the loop runs, in the thread that runs it, from the state at its beginning.

    Yields:
        Records from where the run goes on; read_records() returns the earlier ones.

    Raises:
        InputError: for a folder that another process uses, or that belongs to other data or another configuration,
            and for files that cannot be read or written.
    """
    config_yaml = {
        "train": config.to_dict(),
        "scenes": data.config.to_dict(),
        "design": design_of(model),
        "count": len(data),
        "digest": data.projections(),
        "validation": None if validation is None else len(validation),
        "validation_digest": None if validation is None else validation.projections(),
    }

    def make_stream(state: TrainState) -> Generator[Record]:
        with observe(state):
            yield from fit(model, data, config, validation=validation, resume=state)

    yield from run_with_checkpoints(folder, model, len(data), config, config_yaml, make_stream, checkpoint_seconds)


def run_with_checkpoints(
    folder: Path | str,
    model: nn.Module,
    samples: int,
    config: TrainConfig,
    config_yaml: Mapping[str, Any],
    make_stream: Callable[[TrainState], Generator[Record]],
    checkpoint_seconds: float = 5.0,
) -> Generator[Record]:
    """train() for any stream of records that advances a TrainState in place.

    For the other arguments see train() and TrainState.begin().

    Args:
        config_yaml: content of config.yaml; of a run that goes on, it must be what the file holds.
        make_stream: takes the state to go on from and returns the records from there.
    """
    check_number("checkpoint_seconds", checkpoint_seconds, 0.0)
    folder = Path(folder)
    with _lock(folder):
        _claim(folder / CONFIG, config_yaml)
        state = TrainState.begin(model, samples, config)
        checkpoint = folder / CHECKPOINT
        if checkpoint.exists():
            state.load(checkpoint)
        _drop_records_after(folder / RECORDS, state)
        saved = time.monotonic()
        stream = make_stream(state)
        # A run can go on from this state only if it stands between two recorded steps; else from the last checkpoint.
        at_boundary = False
        try:
            for record in stream:
                _append(folder / RECORDS, record)
                at_boundary = True
                if time.monotonic() - saved >= checkpoint_seconds:
                    state.save(checkpoint)
                    saved = time.monotonic()
                yield record
                at_boundary = False
            at_boundary = True
        finally:
            stream.close()
            if at_boundary:
                state.save(checkpoint)


def load_model(folder: Path | str) -> tuple[CovarianceNet, SceneConfig]:
    """The network of a run folder as its last checkpoint left it, raw weights, and the scenes it was trained on.

    Raises:
        InputError: if the folder holds no run, or a network that is not CovarianceNet.build() of its scenes.
    """
    plain = read_config(folder)
    if not isinstance(plain.get("scenes"), dict):
        raise InputError(f"{Path(folder) / CONFIG} names no scenes; allowed: the file that rislab wrote")
    scenes = SceneConfig.from_dict(plain["scenes"])
    model = CovarianceNet.build(scenes, design=design_in(Path(folder) / CONFIG, plain.get("design", "memoriser")))
    checkpoint = Path(folder) / CHECKPOINT
    try:
        model.load_state_dict(read_checkpoint(checkpoint)["model"])
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{checkpoint} holds another network, or one of an older version; "
            "allowed: CovarianceNet.build() of its scenes (train it again)"
        ) from error
    return model, scenes


def read_records(folder: Path | str) -> list[Record]:
    """All records of a run, oldest first; a last line that was only half written is left out.

    Raises:
        InputError: if there are none to read, or a line before the last is damaged.
    """
    path = Path(folder) / RECORDS
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}") from error
    return [_parsed(path, number, line) for number, line in enumerate(lines[:-1], start=1)]


def read_config(folder: Path | str) -> dict[str, Any]:
    """Content of config.yaml of a run.

    Raises:
        InputError: if it cannot be read or is not a mapping.
    """
    return files.read_mapping(Path(folder) / CONFIG, "holds no run configuration; allowed: the file that rislab wrote")


def _lock(folder: Path) -> AbstractContextManager[object]:
    """The lock of a run folder, taken; the kernel drops it with the process, however that ends."""
    files.check_writable(folder)
    try:
        # A stream may be closed by another thread than the one that began it.
        return FileLock(folder / LOCK, thread_local=False).acquire(blocking=False)
    except Timeout as error:
        raise InputError(f"run folder {folder} is in use by another process; allowed: one process at a time") from error


def _claim(path: Path, config_yaml: Mapping[str, Any]) -> None:
    """Write config.yaml, or check that the one that is there says the same."""
    if not path.exists():
        files.replace(path, yaml.safe_dump(dict(config_yaml), sort_keys=False).encode())
        return
    existing = read_config(path.parent)
    for section, kind in (("train", TrainConfig), ("scenes", SceneConfig)):
        # Fields that a run of an earlier version does not have get their defaults.
        try:
            fields = kind.from_dict(existing.get(section)).to_dict()  # type: ignore[arg-type]  # refused if it is none
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        for name, value in config_yaml[section].items():
            if (stored := fields[name]) != value:
                raise InputError(
                    f"{name} is {value!r}, and {path.parent} was begun with {stored!r}; allowed: the same value"
                )
    # Runs of the first version name no design; it had only one.
    design = design_in(path, existing.get("design", "memoriser"))
    if design != config_yaml["design"]:
        raise InputError(
            f"design is {config_yaml['design']!r}, and {path.parent} was begun with {design!r}; allowed: the same value"
        )
    for name in ("count", "digest", "validation", "validation_digest"):
        if not _agree(existing.get(name), config_yaml[name]):
            raise InputError(
                f"the {'validation ' if 'validation' in name else ''}scenes differ from those that {path.parent} was "
                "begun with; allowed: the same scenes"
            )


def _agree(stored: object, own: object) -> bool:
    """Whether two values of config.yaml are the same; numbers of scenes may differ by rounding."""
    if not isinstance(own, list):
        return stored == own
    if isinstance(stored, str):
        # Version 0.1 stored a digest of the bits, which depend on the processor: configuration and count must suffice.
        return BITS.fullmatch(stored) is not None
    return (
        isinstance(stored, list)
        and len(stored) == len(own)
        and all(isinstance(one, float) for one in stored)
        and all(
            math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING) for one, other in zip(stored, own, strict=True)
        )
    )


def _append(path: Path, record: Record) -> None:
    line = (json.dumps(to_dict(record)) + "\n").encode()
    try:
        with path.open("ab", buffering=0) as handle:
            if (written := handle.write(line)) != len(line):
                handle.truncate(handle.tell() - written)
                raise OSError(28, os.strerror(28))
    except OSError as error:
        raise InputError(f"{path} could not be written: {error.strerror}; the records before are unchanged") from error


def _drop_records_after(path: Path, state: TrainState) -> None:
    """Keep only the records up to the state; later ones are about to be made again."""
    if not path.exists():
        return
    earlier = [record for record in read_records(path.parent) if _is_before(record, state.progress)]
    files.replace(path, "".join(json.dumps(to_dict(record)) + "\n" for record in earlier).encode())


def _is_before(record: Record, progress: TrainProgress) -> bool:
    return record.step <= progress.step if isinstance(record, StepRecord) else record.epoch < progress.epoch


def _parsed(path: Path, number: int, line: bytes) -> Record:
    try:
        return from_dict(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"line {number} of {path} is damaged; allowed: lines that rislab wrote") from error
