"""Datasets whose samples lie in one and the same memory: a batch that is put together of them holds the last alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from rislab.checkup.findings import Finding, as_fault
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.recording.tensors import has_numbers
from rislab.checkup.rules import Code

# Batches in a row whose samples are one, before the dataset is asked; samples of such a batch.
BATCHES, SAMPLES = 3, 3


class SharedBuffers(Observer):
    """Looks at the first batches, and, if all their samples are one, asks the dataset for two in the end."""

    def __init__(self) -> None:
        self._loader: DataLoader[Any] | None = None
        self._where = ""
        self._alike, self._varies = 0, False
        self._findings: list[Finding] = []

    def on_pass(self, args: tuple[Any, ...], kwargs: Any) -> None:
        if not self._varies and self._loader is None and not isinstance(args[0].dataset, IterableDataset):
            self._loader, self._where = args[0], caller()[0]

    def on_forward_end(self, call: ForwardEvent) -> bool:
        if self._loader is not None and call.training and torch.is_grad_enabled():
            self._compare(call)
        return self._varies

    def _compare(self, call: ForwardEvent) -> None:
        first = next((one for one in call.inputs if one.is_floating_point() and one.dim() > 1), None)
        if first is None or len(first) < SAMPLES or not has_numbers(first) or not first.numel():
            return
        alike = bool((first.detach() == first.detach()[:1]).all()) and first.stride(0) != 0
        self._alike += alike
        self._varies = not alike
        self._loader = self._loader if alike else None

    def end(self, error: BaseException | None) -> None:
        loader, self._loader = self._loader, None
        if loader is None or self._alike < BATCHES:
            return
        states = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(()):
            text = _overwritten(loader.dataset)
        random.setstate(states[0])
        np.random.set_state(states[1])
        if text:
            text = f"the samples of {self._alike} batches are equal within each, and {text}"
            self._findings.append(as_fault(Code.LOSSES, "one buffer in all samples", text, self._where))

    def findings(self) -> list[Finding]:
        return self._findings


def _overwritten(dataset: Any) -> str:
    """What reading one sample of a dataset has changed in another one, "" if nothing."""
    try:
        one = _arrays(dataset[0])
        before = [np.array(value) for value in one]
        dataset[1]
    # Whatever the loop's own class does there, nobody but the checkup has asked for it.
    except Exception:
        return ""
    changed = sum(not np.array_equal(value, was, equal_nan=True) for value, was in zip(one, before, strict=True))
    kind = type(dataset).__name__
    return f"reading sample 1 of {kind} changed the numbers of sample 0: they share their memory" if changed else ""


def _arrays(sample: Any) -> list[Any]:
    """The arrays of a sample, in the memory of their own."""
    values = sample.values() if isinstance(sample, dict) else sample if isinstance(sample, tuple | list) else [sample]
    some = [value.detach().numpy() if isinstance(value, Tensor) else value for value in values]
    return [value for value in some if isinstance(value, np.ndarray) and value.dtype.kind in "fiu"]
