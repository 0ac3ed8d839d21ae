"""The true gradient of a loss, taken from the graph that the loop has just built, by a backward that leaves no trace.

The weights, the random state and the buffers are those of the loop's own forward. What the loop makes of the gradient
afterwards, divide, scale, accumulate, clip or zero, cannot touch it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils.hooks import RemovableHandle

from rislab.checkup.trace import flat

# Probes with a backward of their own under way: it runs the hooks of all the others as well, in any thread.
_OWN_BACKWARD: set[int] = set()
# Nodes by which a loop weighs a loss: they have one source, and its gradient is a multiple of theirs.
_FACTORS = ("MulBackward", "DivBackward", "NegBackward", "ToCopyBackward", "AliasBackward", "CloneBackward")
_MEANS = ("MeanBackward",)
_SUMS = ("AddBackward", "SubBackward")
# Where half precision overflows in a scaled loss, scales smaller by these are tried.
_SMALLER = (1.0, 16.0, 256.0, math.inf)


class TrueGradient(NamedTuple):
    """The gradient of a raw loss.

    Args:
        gradient: flat, unscaled; None if it could not be taken.
        why: it could not be taken, "" if it was.
        reached: whether the loss depends on any of the weights.
        factor: with which the loss stands in what backward() was called on.
    """

    gradient: Tensor | None
    why: str
    reached: bool
    factor: float = 1.0


class GradientProbe:
    """Gradients of the weights that one optimiser trains, as flat vectors of one layout.

    Args:
        weights: gives names and tensors of the network, asked anew for each window.
        optimizer: of the loop.
        scaler: gradient scaler of the loop, or None.
    """

    def __init__(
        self, weights: Callable[[], Iterable[tuple[str, Tensor]]], optimizer: torch.optim.Optimizer, scaler: Any
    ) -> None:
        self.weights, self.optimizer, self.scaler = weights, optimizer, scaler
        self._tensors: list[Tensor] = []
        self._places: dict[int, slice] = {}
        self._size = 0
        self._hooks: dict[int, RemovableHandle] = {}

    def trainable(self) -> list[tuple[str, Tensor]]:
        """Names and tensors that ask for a gradient."""
        return [(name, value) for name, value in self.weights() if value.requires_grad]

    def optimised(self) -> set[int]:
        """Identities of the tensors that the optimiser holds."""
        return {id(value) for group in self.optimizer.param_groups for value in group["params"]}

    def scale(self) -> float:
        """Of the loss, 1 without a scaler."""
        return float(self.scaler.get_scale()) if self.scaler is not None and self.scaler.is_enabled() else 1.0

    def lay_out(self, accumulated: Callable[[Tensor], None]) -> None:
        """Take the weights as they are now; `accumulated` is called when a backward has come to one of them."""
        trainable, held = [value for _, value in self.trainable()], self.optimised()
        # Zeroing what no optimiser holds is not the loop's business.
        self._tensors = [value for value in trainable if id(value) in held] or trainable
        self._places, self._size = {}, 0
        for value in self._tensors:
            size = value.numel() * (2 if value.is_complex() else 1)
            self._places[id(value)] = slice(self._size, self._size + size)
            self._size += size
            if id(value) not in self._hooks:
                self._hooks[id(value)] = value.register_post_accumulate_grad_hook(accumulated)

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._hooks.values():
            handle.remove()
        self._hooks = {}

    def held(self) -> Tensor:
        """The gradients as they are now, flat."""
        return flat(self._tensors, [value.grad for value in self._tensors])

    def update(self, gradients: Tensor, parameter: Tensor) -> None:
        """Write the gradient of one tensor, unscaled, into a flat vector."""
        place = self._places.get(id(parameter))
        if place is not None:
            gradients[place] = flat([parameter], [parameter.grad]) / self.scale()

    def empty(self) -> bool:
        """Whether all gradients are 0 or None."""
        return all(value.grad is None or not bool(value.grad.any()) for value in self._tensors)

    def largest_share(self, parameter: Tensor, gradients: Iterable[Tensor]) -> float:
        """Largest share that a tensor has in the norm of flat gradients; 0 where it has none."""
        place = self._places.get(id(parameter))
        if place is None:
            return 0.0
        known = [gradient for gradient in gradients if len(gradient) == self._size and float(gradient.norm()) > 0]
        return max((float(gradient[place].norm() / gradient.norm()) for gradient in known), default=0.0)

    def of_loss(self, loss: Tensor) -> TrueGradient:
        """The gradient of a raw loss."""
        if not loss.requires_grad:
            return TrueGradient(None, "the loss carries no gradient", False)
        if loss.numel() != 1:
            return TrueGradient(None, "the loss is not a single number", True)
        scale = self.scale()
        # The loop weighs a loss before it scales it: where half precision overflows here, it need not there.
        return self._differentiate(loss, [max(1.0, scale / by) for by in _SMALLER], None)

    def of_root(self, root: Tensor, node: Node | None) -> TrueGradient:
        """The gradient of the loss at a node of the graph of what backward() was called on."""
        if node is None:
            return TrueGradient(None, "", False)
        if root.numel() != 1:
            return TrueGradient(None, "backward was called on more than a single number", True)
        scale = self.scale()
        result = self._differentiate(root, [1.0 / max(1.0, min(by, scale)) for by in _SMALLER], node)
        if result.gradient is None:
            return result
        if result.factor == 0 or not math.isfinite(result.factor):
            why = "the loop gives it no weight" if result.factor == 0 else "its weight is no number"
            return TrueGradient(None, why, result.reached)
        return result._replace(gradient=result.gradient / result.factor)

    def _differentiate(self, value: Tensor, scales: Sequence[float], node: Node | None) -> TrueGradient:
        """The gradient of a value with regard to the weights, and to a node if there is one, as the factor."""
        live = [tensor for tensor in self._tensors if tensor.requires_grad]
        inputs: list[Any] = [*live] if node is None else [*live, GradientEdge(node, 0)]
        factor = 1.0
        _OWN_BACKWARD.add(id(self))
        try:
            for scale in dict.fromkeys(scales):
                # A backward is run outside of autocast, whatever the loss stands in.
                with torch.autocast(value.device.type, enabled=False):
                    parts = torch.autograd.grad(value * scale, inputs, retain_graph=True, allow_unused=True)
                if node is not None:
                    factor = 0.0 if parts[-1] is None else float(parts[-1]) / scale
                by_tensor = {id(tensor): part for tensor, part in zip(live, parts, strict=False)}
                gradient = flat(self._tensors, [by_tensor.get(id(tensor)) for tensor in self._tensors]) / scale
                if bool(torch.isfinite(gradient).all()):
                    break
        except RuntimeError as error:
            return TrueGradient(None, f"its gradient could not be taken: {str(error).splitlines()[0]}", True)
        finally:
            _OWN_BACKWARD.discard(id(self))
        return TrueGradient(gradient, "", any(part is not None for part in parts[: len(live)]), factor)


def own_backward() -> bool:
    """Whether a backward of a probe is under way."""
    return bool(_OWN_BACKWARD)


def weighed_node(root: Tensor, known: Iterable[Node]) -> Node | None:
    """The node below all factors of what backward() was called on, or the first of the known nodes on the way."""
    known = set(known)
    node = root.grad_fn
    while node is not None and node not in known and node.name().startswith(_FACTORS):
        sources = [source for source, _ in node.next_functions if source is not None]
        if len(sources) != 1:
            break
        node = sources[0]
    return node


def is_mean(node: Node | None) -> bool:
    """Whether what a node gives is a mean, or a sum of terms of which one at least is an unweighted mean."""
    if node is None:
        return False
    if node.name().startswith(_SUMS):
        return any(source is not None and is_mean(source) for source, _ in node.next_functions)
    return node.name().startswith(_MEANS)
