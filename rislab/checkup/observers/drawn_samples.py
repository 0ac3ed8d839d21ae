"""Distributions: samples without a gradient, or scored in place of the one that was used; entropies that sink."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.distributions import Normal
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import unserializable_hook

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer, Roots
from rislab.checkup.recording.loss_graph import nodes_behind, sources_of
from rislab.checkup.recording.tensors import has_numbers, tensors_of
from rislab.checkup.rules import Code

# Distributions that are held between two backwards, and those with their graphs; samples of each, and what is made of
# them; nodes that are gone through, and those near the root of a loss.
HELD, LAST, SAMPLES, MADE, NODES, NEAR = 64, 4, 4, 16, 2000, 100
# Nodes by which a loss is linear in what they take.
_LINEAR = (
    "Add", "Sub", "Rsub", "Neg", "Mul", "Div", "Mean", "Sum", "Min", "Squeeze", "Unsqueeze", "View", "Reshape",
)  # fmt: skip
# Backwards, and gradients of entropies, that must agree.
AGREEING, ENTROPIES = 3, 6


@dataclass(eq=False)
class _Drawn:
    """Samples of one distribution whose parameters carry a gradient."""

    distribution: weakref.ReferenceType[Any]  # itself
    where: str  # file and line of the first sample
    node: Node | None  # that made its first parameter; None once others came after it
    samples: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)  # of samples, without a gradient
    scored: set[int] = field(default_factory=set)  # places of samples whose log-probability was asked for
    answers: set[Node] = field(default_factory=set)  # of networks that a sample went into
    indirect: set[Node] = field(default_factory=set)  # of those that what is made of one went into


class DrawnSamples(Observer):
    """Observes sample() and log_prob(), up to one of the first backwards."""

    of_first_backwards = True

    def __init__(self) -> None:
        self._drawn: list[_Drawn] = []
        self._scored = False  # whether any log-probability was asked for
        self._others = self._right = self._cut = self._beside = 0
        self._where = ["", ""]

    def end(self, error: BaseException | None) -> None:
        self._drawn = []

    def _of(self, distribution: Any) -> _Drawn | None:
        return next((one for one in self._drawn if one.distribution() is distribution), None)

    def on_sample(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> None:
        distribution = args[0]
        node = _node_of(distribution) if torch.is_grad_enabled() else None
        if node is not None:
            one = self._of(distribution)
            if one is None and len(self._drawn) < HELD:
                # A function may have drawn, and be over before the backward; graphs are kept alive for the last ones.
                for other in self._drawn[-LAST:][:1]:
                    other.node = None
                one = _Drawn(weakref.ref(distribution), caller()[0], node if type(distribution) is Normal else None)
                self._drawn.append(one)
            if one is not None and len(one.samples) < SAMPLES:
                one.samples.append(value)

    def on_log_prob(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        distribution, value = (*args, *kwargs.values())
        self._scored, one = True, self._of(distribution)
        if one is not None:
            one.scored |= {place for place, sample in enumerate(one.samples) if sample is value}

    def on_result(self, given: Sequence[Any], output: Any) -> None:
        """What is made of a sample, as by tanh(), or put beside another input, stands for it."""
        for one in self._drawn if isinstance(output, Tensor) and not output.requires_grad else ():
            known = {*map(id, one.samples), *map(id, one.made)}
            if len(one.made) < MADE and any(id(value) in known for value in tensors_of(given)):
                one.made.append(output)

    def on_forward_end(self, call: ForwardEvent) -> None:
        if self._drawn and call.training and torch.is_grad_enabled():
            given = set(map(id, call.inputs))
            nodes = [value.grad_fn for value in tensors_of(call.output) if value.grad_fn is not None]
            for one in self._drawn:
                if any(id(sample) in given for sample in one.samples):
                    one.answers.update(nodes)
                if any(id(value) in given for value in one.made):
                    one.indirect.update(nodes)

    def on_backward(self, roots: Roots) -> None:
        drawn, self._drawn = self._drawn, []
        first = [one for one in drawn if 0 in one.scored]
        others = [one for one in drawn if one.scored and 0 not in one.scored]
        self._right += bool(first)
        if others:
            self._others, self._where[0] = self._others + 1, others[0].where
        normal = [one for one in drawn if one.node is not None]
        if not normal or len(roots) != 1 or roots[0][0].grad_fn is None:
            return
        if self._note_beside(normal, roots[0][0].grad_fn) or self._scored:
            return
        nodes = set(nodes_behind(roots[0][0].grad_fn, NODES))
        layers = {value.data_ptr() for node in nodes for value in _inputs_of(node)}
        entered = [
            one for one in normal if one.answers & nodes or any(value.data_ptr() in layers for value in one.samples)
        ]
        if entered and all(one.node in nodes for one in entered):
            self._cut, self._where[1] = self._cut + 1, entered[0].where

    def _note_beside(self, drawn: list[_Drawn], root: Node) -> bool:
        """Whether the answer to a sample is a term of a loss, beside its log-probability or an entropy."""
        near, weighed = _linear(root)
        behind = {node for one in weighed for node in nodes_behind(one, NODES)}
        nodes = set(nodes_behind(root, NODES))
        for one in drawn:
            if (one.answers | one.indirect) & near and one.node in nodes - behind:
                self._beside, self._where[1] = self._beside + 1, one.where
                return True
        return False

    def findings(self) -> list[Finding]:
        results = []
        if self._beside >= AGREEING:
            text = f"in {self._beside} backwards, the answer of a network to a sample() of a Normal is a term of the "
            text += "loss, beside its log-probability or entropy: the sample carries no gradient, so that the answer "
            text += "does not train what the Normal is made from"
            results.append(as_fault(Code.LOSSES, "sample without a gradient", text, self._where[1]))
        elif self._cut >= AGREEING and not self._scored:
            text = f"in {self._cut} backwards, sample() of a Normal went into a network: it carries no gradient, and "
            text += "no log-probability was asked for, so that the loss of that network does not train what the Normal "
            text += "is made from"
            results.append(as_fault(Code.LOSSES, "sample without a gradient", text, self._where[1]))
        if self._others >= AGREEING and not self._right:
            text = f"in {self._others} backwards, the log-probability was asked of a sample that was drawn for it, and "
            text += "never of the first sample of the distribution, which was drawn to be used"
            # Of two samples one may be a baseline for the other.
            results.append(as_warning(Code.LOSSES, "log-probability of another sample", text, self._where[0]))
        return results


class LoweredEntropies(Observer):
    """Looks at the gradients of the first entropies of policies: a bonus for exploring is subtracted from the loss."""

    def __init__(self) -> None:
        self._gradients: list[Tensor] = []  # of entropies
        self._scored = self._maximised = False  # whether a log-probability was trained, and something maximised
        self._where = ""

    def on_log_prob(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        self._scored |= torch.is_grad_enabled() and _node_of(args[0]) is not None
        return self._scored

    def on_entropy(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> bool:
        if value.requires_grad:
            self._where = self._where or caller()[0]
            value.register_hook(unserializable_hook(lambda gradient: self._note(gradient)))
        return len(self._gradients) >= ENTROPIES

    def _note(self, gradient: Tensor) -> None:
        if len(self._gradients) < ENTROPIES:
            self._gradients.append(gradient.detach())

    def on_optimizer(self, optimizer: Optimizer) -> None:
        self._maximised |= any(group.get("maximize") for group in optimizer.param_groups)

    def findings(self) -> list[Finding]:
        raised = any(bool((one <= 0).any()) for one in self._gradients)
        if len(self._gradients) < ENTROPIES or raised or self._maximised or not self._scored:
            return []
        text = f"in {ENTROPIES} backwards the gradient of the entropy of a policy was above 0, in the first it was "
        text += f"{self._gradients[0].max():.3g}: each step lowers it, and the policy stops to explore"
        return [as_fault(Code.LOSSES, "entropy is lowered", text, self._where)]


def _linear(root: Node) -> tuple[set[Node], list[Node]]:
    """Nodes that a loss is linear in, with one factor for all samples, and those that have one for each sample."""
    near, weighed, waiting = {root}, [], [root]
    while waiting and len(near) < NEAR:
        node = waiting.pop()
        sources = sources_of(node)
        if not node.name().startswith(_LINEAR):
            continue
        if node.name().startswith("Div") and len(sources) > 1:
            continue  # within the log-probability itself
        given = [getattr(node, name, None) for name in ("_saved_other", "_saved_self")]
        if node.name().startswith("Mul") and (
            len(sources) > 1 or any(isinstance(one, Tensor) and one.numel() > 1 for one in given)
        ):
            weighed.append(node)
            continue
        waiting += [one for one in sources if one not in near]
        near.update(sources)
    return near, weighed


def _inputs_of(node: Node) -> list[Tensor]:
    """What a layer with weights was given, as far as its node has kept it."""
    try:
        given = [getattr(node, name, None) for name in ("_saved_mat1", "_saved_input")]
    except RuntimeError:  # changed in place, or let go
        return []
    return [value for value in given if isinstance(value, Tensor) and has_numbers(value)]


def _node_of(distribution: Any) -> Node | None:
    """The node that made the first parameter of a distribution, None if it carries no gradient."""
    held = vars(distribution) if distribution is not None else {}
    first = next((held[name] for name in ("loc", "logits", "probs") if name in held), None)
    return first.grad_fn if isinstance(first, Tensor) else None
