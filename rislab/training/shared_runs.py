"""Trainings that several reports of one gallery need: each is run once, and stored in a folder with its weights."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from rislab import files
from rislab.training.records import Record, from_dict, to_dict

FOLDER = "RISLAB_SHARED_RUNS"  # environment variable; without it every training is run where it is asked for
SOURCES = ("*.py", "data/*.py", "model/*.py", "training/*.py", "sanity/*.py")  # what the result of a training rests on


def shared_run(
    caller: str, key: Mapping[str, object], model: nn.Module, run: Callable[[], list[Record]]
) -> list[Record]:
    """The records of a training, from the folder if it was run already; the model gets the weights of that run.

    A stored run is used if key, source, torch and number of threads are the same. If another process runs the training
    now, its end is waited for.

    Args:
        caller: __name__ of the module that trains; a patched package, which has faults, shares nothing.
        key: what tells it from other trainings of this source, as JSON has it.
        model: that is trained, untrained.
        run: trains the model.
    """
    folder = os.environ.get(FOLDER)
    if not folder or caller.partition(".")[0] != "rislab":
        return run()
    content = [json.dumps(dict(key), sort_keys=True), source_digest(), torch.__version__, str(torch.get_num_threads())]
    path = Path(folder) / f"{hashlib.sha256('|'.join(content).encode()).hexdigest()}.pt"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            records = run()
            stored, buffer = {"records": [to_dict(one) for one in records], "weights": model.state_dict()}, io.BytesIO()
            torch.save({**stored, "training": model.training}, buffer)
            files.replace(path, buffer.getvalue())
            return records
    stored = torch.load(path, weights_only=True)
    # A training may have given the model another number format.
    formats = {tensor.dtype for tensor in stored["weights"].values() if tensor.is_floating_point()}
    if len(formats) == 1:
        model.to(*formats)
    model.load_state_dict(stored["weights"])
    model.train(stored["training"])
    return [from_dict(one) for one in stored["records"]]


@cache
def source_digest() -> str:
    """A digest of the source that trainings of the sanity room rest on."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in package.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
