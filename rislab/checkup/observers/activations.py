"""Activations that are missing, or dead: layers that follow each other directly, and layers that give 0 alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.graph import Node

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.recording.loss_graph import nodes_behind
from rislab.checkup.recording.tensors import has_numbers
from rislab.checkup.rules import Code

# Nodes of a graph that are gone through; forwards of a network that must agree; networks that are looked at.
NODES, AGREEING, NETWORKS = 400, 8, 8
# Samples and units of a layer, and steps in which one of them would have come alive.
SAMPLES, UNITS, STEPS = 4, 4, 8
# By how much a layer between others is wider than both ends.
WIDER = 2
# Names of nodes that are linear in what a network was given.
_LAYERS = ("AddmmBackward", "MmBackward")
_LINEAR = (
    *_LAYERS, "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Permute", "Transpose", "TBackward", "Clone",
    "Slice", "Select", "AliasBackward", "torch::autograd::AccumulateGrad",
)  # fmt: skip


class Activations(Observer):
    """Goes through the graphs of the first forwards of each network, then of ever fewer."""

    def __init__(self, steps: StepCount) -> None:
        self._steps = steps
        self._linear: dict[int, list[str]] = {}  # what was seen, by network; "" where something is not linear
        self._dead: dict[tuple[int, int], list[str]] = {}  # by network and place of the layer; "" where one lives
        self._where: dict[int, str] = {}

    def on_look(self, call: ForwardEvent) -> None:
        key, output = call.network, call.output
        if not call.training or not isinstance(output, Tensor) or output.grad_fn is None:
            return
        if key not in self._linear and len(self._linear) >= NETWORKS:
            return
        if key not in self._where:
            self._where[key] = caller()[0]
        linear = self._linear.setdefault(key, [])
        dead = [texts for (network, _), texts in self._dead.items() if network == key]
        if len(linear) >= AGREEING and all("" in texts for texts in (linear, *dead)):
            return  # nothing that comes now changes the answer
        nodes = list(nodes_behind(output.grad_fn, NODES))
        linear.append(_chain(nodes) if len(nodes) < NODES else "")
        for place, node in enumerate(_rectified(nodes)):
            texts = self._dead.setdefault((key, place), [])
            # What a node keeps is not read: under a checkpoint, the forward would run again.
            node.register_hook(lambda passed, arrived, texts=texts: _note_dead(texts, passed, arrived))

    def findings(self) -> list[Finding]:
        results = []
        for (key, _), texts in self._dead.items():
            if len(texts) >= AGREEING and all(texts) and self._steps.total >= STEPS:
                text = f"in all {len(texts)} backwards that were looked at, {texts[-1]}: nothing before it is trained"
                results.append(as_fault(Code.WEIGHTS, "layer of dead units", text, self._where[key]))
        for key, texts in self._linear.items():
            if len(texts) >= AGREEING and all(texts):
                text = f"{texts[-1]}, with no activation between them: together they are one linear layer"
                results.append(as_warning(Code.ARGUMENTS, "layers without an activation", text, self._where[key]))
        return results


def _chain(nodes: list[Node]) -> str:
    """The widths of layers that follow each other in a network that is linear throughout, "" if there are none.

    Only layers that are much wider than both ends are meant to have an activation; others may lower the rank.
    """
    if any(not node.name().startswith(_LINEAR) for node in nodes):
        return ""
    layers = [node for node in nodes if node.name().startswith(_LAYERS)]
    sizes = [tuple(getattr(node, "_saved_mat2_sym_sizes", ())) for node in reversed(layers)]
    if len(sizes) < 2 or any(len(one) != 2 for one in sizes):
        return ""
    if any(after[0] != before[1] for before, after in pairwise(sizes)):
        return ""
    first, last = int(sizes[0][0]), int(sizes[-1][1])
    if any(int(one[1]) < WIDER * max(first, last) for one in sizes[:-1]):
        return ""
    return f"{len(sizes)} layers follow each other, {first} to " + " to ".join(str(int(one[1])) for one in sizes)


def _rectified(nodes: list[Node]) -> list[Node]:
    """What relu() gave to a layer with weights."""
    results = []
    for node in nodes:
        if node.name().startswith(("AddmmBackward", "MmBackward", "ConvolutionBackward")):
            inputs = node.next_functions[1 if node.name().startswith("Addmm") else 0]
            if inputs[0] is not None and inputs[0].name().startswith("ReluBackward"):
                results.append(inputs[0])
    return results


def _note_dead(texts: list[str], passed: Sequence[Tensor | None], arrived: Sequence[Tensor | None]) -> None:
    """Note that a layer let no gradient through that came to it, "" that it did; nothing where none came."""
    before, after = passed[0] if passed else None, arrived[0] if arrived else None
    if before is None or after is None or not (has_numbers(before) and has_numbers(after)):
        return
    if after.layout is not torch.strided or after.dim() < 2 or not bool(after.any()):
        return
    many = len(after) >= SAMPLES and after.shape[1] >= UNITS
    text = f"relu() let no gradient through to any of {after.shape[1]} units, for none of {len(after)} samples"
    texts.append(text if many and not bool(before.any()) else "")
