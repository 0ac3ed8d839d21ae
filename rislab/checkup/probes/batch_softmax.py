"""Softmaxes over the samples of a batch whose weights each answer uses for itself: what it sums does not sum to 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rislab.checkup.probes.probe_batches import SampleList, tensors_in
from rislab.checkup.probes.sample_mixing import Arguments, Run, by_place, leaves_in
from rislab.checkup.recording.call_stack import caller


@torch.enable_grad()
def own_weights(run: Run, arguments: Arguments, samples: int) -> tuple[str, str]:
    """What was measured of a softmax over the samples, and its file and line; "" if there is none, or it may be meant.

    The weights of a set are normalised over it, and each answer uses those of all. Here an answer uses weights at
    several positions of its own sample, and no others.
    """
    first = next((leaf for leaf in leaves_in(arguments) if isinstance(leaf, SampleList) or leaf.dim()), None)
    # A vector a sample may be one sequence that has no batch.
    if not isinstance(first, Tensor) or first.dim() < (3 if first.is_floating_point() else 2) or first.shape[1] < 2:
        return "", ""
    weights = _WeightsOfSamples(samples, first.shape[1])
    with weights:
        answers = tensors_in(run(arguments))
    rows = [
        one for one in (by_place(answer, 0, samples) for answer in answers.values()) if one is not None and one.grad_fn
    ]
    used = 0
    for leaf, dimension, _ in weights.results:
        for place in (samples // 3, 2 * samples // 3):
            given = torch.autograd.grad(
                [one[place].square().sum() for one in rows], leaf, retain_graph=True, allow_unused=True
            )[0]
            if given is not None:
                depends = given.movedim(dimension, 0).reshape(samples, -1).any(dim=1).nonzero().flatten().tolist()
                if depends != [place]:
                    return "", ""
                used += 1
    if not used:
        return "", ""
    leaf, dimension, where = weights.results[0]
    text = f"a softmax over dimension {dimension} of {tuple(leaf.shape)} makes weights that sum to 1 over the samples"
    return f"{text}, and each answer uses those of its own sample alone", where


class _WeightsOfSamples(TorchFunctionMode):
    """Puts a tensor of its own in the place of each softmax over the samples that has an axis of positions as well."""

    def __init__(self, samples: int, positions: int) -> None:
        super().__init__()
        self._samples, self._positions = samples, positions
        self.results: list[tuple[Tensor, int, str]] = []  # each with its dimension, and file and line

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        dimension = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if getattr(func, "__name__", "") != "softmax" or not isinstance(dimension, int):
            return result
        sizes = [*result.shape]
        if sizes.pop(dimension) != self._samples or self._positions not in sizes:
            return result
        result = result.detach().requires_grad_()
        self.results.append((result, dimension % result.dim(), caller()[0]))
        return result
