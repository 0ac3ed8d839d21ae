"""What a training loop does, noted from outside by public hooks: forwards, raw losses, backwards, optimiser steps.

The true gradient of a micro-batch is taken from the graph that the loop has just built: the same weights, the same
random state, the same buffers as the loop's own, by a backward of our own that leaves no trace. What the loop makes of
it afterwards, divide, scale, accumulate, clip or forget, cannot touch it.

A loss that was declared is heard where it is computed. Without one, the witness listens for backwards: the tensor that
backward() was called on is followed down through its factors, to what the loop multiplied or divided.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils.hooks import RemovableHandle

from rislab.checkup.trace import Backward, MicroBatch, Step, Trace, cast_to, flat, precision_of

# Frames of these folders are nobody's fault, if there are others.
_HOUSE = (str(Path(torch.__file__).parent.parent), str(Path(__file__).parent))
# Frames that tell one place of a loop from another.
_DEPTH = 24
# A tensor with this share of the gradient has none but rounding, as a bias before BatchNorm.
FAINT = 1e-5
# Nodes by which a loop weighs a loss: they have one source, and its gradient is a multiple of theirs.
_FACTORS = ("MulBackward", "DivBackward", "NegBackward", "ToCopyBackward", "AliasBackward", "CloneBackward")
_MEANS = ("MeanBackward",)
# Witnesses with a backward of their own under way: it runs the hooks of all the others as well, in any thread.
_BUSY: set[int] = set()
_ADDED = ("AddBackward", "SubBackward")


class Recorder:
    """Takes note of one optimiser's part in a loop, for whoever hears of it: see checkup.Watch and bystander.

    Args:
        weights: names and tensors of the network, asked anew for each window. optimizer: of the loop.
        scaler, scheduler: of the loop, or None. every: take gradients of each n-th window.
        beside: tensors whose gradients may be clipped together with those of the optimiser.
    """

    def __init__(
        self,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        optimizer: torch.optim.Optimizer,
        scaler: Any,
        scheduler: Any,
        every: int,
        beside: Callable[[], Iterable[Tensor]] = lambda: (),
    ) -> None:
        self.seen = Trace()
        self._weights, self._optimizer, self._every = weights, optimizer, every
        self._scaler, self._scheduler, self._beside = scaler, scheduler, beside
        self._handles: list[RemovableHandle] = []
        self._hooked: dict[int, RemovableHandle] = {}
        self._within = -1  # forwards inside a step under way; −1 outside of one
        self._samples, self._training, self._mode = 0, True, True
        self._types: list[torch.dtype] = []  # of autocast and of the output, in the last forward
        self._since: list[MicroBatch] = []
        self._nodes: list[tuple[Node, MicroBatch]] = []
        self._strays: set[tuple[str, ...]] = set()
        self._backwards: list[Backward] = []
        self._numbers = 0
        self._open: Backward | None = None
        self._news = True  # whether a loss has come since the last backward
        self._root: MicroBatch | None = None
        self._forwards = 0
        self._alive: set[int] = set()
        self._layout: list[Tensor] = []
        self._places: dict[int, slice] = {}
        self._size = 0
        self._scale = self._scale_now()
        self._begun: dict[str, Tensor] = {}
        self._ticked = 0  # ticks of the scheduler before anybody watched

    def begin(self) -> None:
        """Begin to watch the optimiser and the weights."""
        self._ticked += self._ticks() or 0
        self._begun = {name: value.detach().clone() for name, value in self._trainable()}
        self.seen.tensors = len(self._begun)
        self._handles = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]
        self._new_window()

    def end(self) -> None:
        """Take all hooks away, and note what only the end shows."""
        for handle in (*self._handles, *self._hooked.values()):
            handle.remove()
        self._handles, self._hooked = [], {}
        self._nodes = []
        self._skipped()
        self.seen.left = self._since
        self.seen.ticks = self._ticks()
        self._forget_evaluations()
        held = self._held()
        own = {id(value) for _, value in self._weights()}
        self.seen.still = [
            name for name, value in self._trainable() if name in self._begun and torch.equal(value, self._begun[name])
        ]
        self.seen.strange = [name for name, value in self._trainable() if id(value) not in held]
        self.seen.stale = len(held - own - self._alive)
        self.seen.frozen = sum(not value.requires_grad for _, value in self._weights())
        exact = [_of_bfloat16(value) for _, value in self._trainable() if _has_many(value)]
        self.seen.coarse, self.seen.fine = sum(exact), len(exact) - sum(exact)
        self.seen.faint = [
            name for name, value in self._trainable() if name in self.seen.still and 0 < self._share(value) < FAINT
        ]

    def _share(self, parameter: Tensor) -> float:
        """Largest share that a tensor ever had in the length of the gradient; 0 where it had none, or nobody looked."""
        place = self._places.get(id(parameter))
        arrived = [step.gradient for step in self.seen.steps if step.gradient is not None and place is not None]
        known = [gradient for gradient in arrived if len(gradient) == self._size and float(gradient.norm()) > 0]
        return max((float(gradient[place].norm() / gradient.norm()) for gradient in known), default=0.0)

    def _forget_evaluations(self) -> None:
        """Losses of a line that never had a backward, where others had one, are no training."""
        windows = [step.micro_batches for step in self.seen.steps] + [self.seen.left]
        trained = {batch.site for window in windows for batch in window if batch.backwards}
        for window in windows:
            window[:] = [batch for batch in window if batch.site in trained or not trained]
        batches = [batch for window in windows for batch in window]
        self.seen.micro_batches = len(batches)
        self.seen.losses = [(batch.loss, batch.samples, batch.count) for batch in batches]

    # Forwards and losses.

    def forward_begins(self, inputs: Sequence[Any], mode: bool) -> None:
        """A forward of the network, in training mode or not, on tensors of which the first counts the samples."""
        if _BUSY:
            return
        self._training = torch.is_grad_enabled()
        if not self._training:
            return
        first = next((value for value in inputs if isinstance(value, Tensor) and value.dim()), None)
        self._samples = 1 if first is None else int(first.shape[0])
        self._mode = mode
        self._types = cast_to("cpu" if first is None else first.device.type)
        if self._within >= 0:
            self._within += 1
        self._skipped()
        self.seen.forwards += 1
        self._forwards += 1

    def forward_ends(self, output: Any) -> None:
        """A forward of the network is over, and has this output."""
        if isinstance(output, Tensor) and output.is_floating_point():
            self._types.append(output.dtype)
        self._training = torch.is_grad_enabled() and self._training

    def hear(self, loss: Tensor, count: float | None, free: bool, *, judge: bool) -> None:
        """A loss was computed.

        Args:
            loss: raw. count: equal parts that it is the mean of, None for one a sample. free: whether it is no mean.
            judge: take its gradient at once; else when a backward comes.
        """
        # A loss without a gradient, after a forward without one, is that of an evaluation.
        if _BUSY or not torch.is_grad_enabled() or not (self._training or loss.requires_grad):
            return
        batch = self._noted(loss, count, free)
        if judge and self._wanted():
            batch.gradient, batch.why, reached = self._true_gradient(loss)
            batch.broken |= batch.gradient is not None and not bool(torch.isfinite(batch.gradient).all())
            if loss.requires_grad and not reached and not batch.why:
                self._strays.add(batch.site)
        elif not loss.requires_grad:
            batch.why = "the loss carries no gradient"
        if batch.site in self._strays:
            self.seen.strays += 1
            return
        self._keep(batch)
        if loss.requires_grad:
            loss.register_hook(lambda upstream, batch=batch: self._heard(batch, upstream))
            if loss.grad_fn is not None:
                self._nodes.append((loss.grad_fn, batch))

    def _noted(self, loss: Tensor, count: float | None, free: bool) -> MicroBatch:
        where, site = caller()
        return MicroBatch(
            number=self.seen.micro_batches,
            samples=self._samples,
            count=float(self._samples) if count is None else count,
            # A loop may divide it in place.
            loss=loss.detach().clone(),
            gradient=None,
            why="",
            precision=precision_of(
                (*(value.dtype for _, value in self._weights()), *self._types, *cast_to(loss.device.type), loss.dtype)
            ),
            where=where,
            site=site,
            broken=not bool(torch.isfinite(loss).all()),
            mode=self._mode,
            free=free,
        )

    def _keep(self, batch: MicroBatch) -> None:
        self.seen.micro_batches += 1
        self._since.append(batch)
        self._news = True

    # Backwards.

    def _heard(self, batch: MicroBatch, upstream: Tensor) -> None:
        """A backward of the loop has come to this loss."""
        if _BUSY:
            return
        if not self.seen.heard:
            if self._root is not None and batch is not self._root and batch in self._since:
                # A term of what backward was called on.
                if self._wanted() and not batch.free:
                    self._root.terms = (*self._root.terms, float(upstream) / self._scale_now())
                self._since.remove(batch)
                self.seen.micro_batches -= 1
            return
        earlier = [other for other in self._since if other is not batch and other.backwards]
        if any(other.broken for other in earlier) and self._empty():
            # A loop that meets NaN may throw its window away: what has come before belongs to no step.
            self._since = self._since[: self._since.index(earlier[-1]) + 1]
            self._end(gradient=None, applied=False, finite=False, where="")
            self._since = [batch]
        if self._news or self._open is None:
            self._opened()
        self._came(batch, float(upstream) / self._scale_now() if self._wanted() else 0.0)

    def _came(self, batch: MicroBatch, weight: float) -> None:
        batch.backwards += 1
        batch.weight += weight
        batch.last = self._open

    def _opened(self) -> None:
        """A backward begins: note what is held."""
        self._news = False
        self._open = Backward(self._numbers)
        self._numbers += 1
        self._backwards.append(self._open)
        if self._wanted():
            self._open.before = flat(self._layout, [value.grad for value in self._layout]) / self._scale_now()
            self._open.after = self._open.before.clone()
            self._open.fresh = not bool(self._open.before.any())

    def _accumulated(self, parameter: Tensor) -> None:
        """A backward has come to a parameter."""
        place = self._places.get(id(parameter))
        if self._open is not None and self._open.after is not None and place is not None:
            self._open.after[place] = flat([parameter], [parameter.grad]) / self._scale_now()

    def root_begins(self, root: Tensor, upstream: Tensor | None) -> None:
        """backward() was called on a tensor: find the loss in it, and take its gradient."""
        if _BUSY:
            return
        weight = 1.0 if upstream is None else float(upstream)
        node, batch = self._bottom(root)
        if not self._wanted():
            if batch is None:
                batch = self._noted(root, None, True)
                if batch.site in self._strays:
                    return
                self._keep(batch)
            self._opened()
            self._came(batch, 0.0)
            self._root = batch
            return
        gradient, why, reached, factor = self._gradient_of_root(root, node)
        if not reached and not why:
            self.seen.strays += 1
            self._strays.add(caller()[1] if batch is None else batch.site)
            if batch is not None:
                self._since.remove(batch)
                self.seen.micro_batches -= 1
            return
        if batch is None:
            batch = self._noted(root / factor if factor else root, None, not _is_mean(node))
            self._keep(batch)
        batch.gradient, batch.why = gradient, why
        batch.broken |= gradient is not None and not bool(torch.isfinite(gradient).all())
        self._opened()
        self._came(batch, weight * factor / self._scale_now())
        self._root = batch

    def root_ends(self) -> None:
        """backward() has returned."""
        self._root = None

    def _bottom(self, root: Tensor) -> tuple[Node | None, MicroBatch | None]:
        """The node below all factors, or that of the loss heard on the way."""
        heard = {node: batch for node, batch in self._nodes if batch in self._since}
        node = root.grad_fn
        while node is not None and node not in heard and node.name().startswith(_FACTORS):
            sources = [source for source, _ in node.next_functions if source is not None]
            if len(sources) != 1:
                break
            node = sources[0]
        return node, None if node is None else heard.get(node)

    def _gradient_of_root(self, root: Tensor, node: Node | None) -> tuple[Tensor | None, str, bool, float]:
        """Gradient of the loss at a node, why not, whether it depends on the weights, and its factor in the root."""
        if node is None:
            return None, "", False, 1.0
        if root.numel() != 1:
            return None, "backward was called on more than a single number", True, 1.0
        live = [value for value in self._layout if value.requires_grad]
        inputs: list[Any] = [*live, GradientEdge(node, 0)]
        scale = self._scale_now()
        _BUSY.add(id(self))
        try:
            for shrunk in dict.fromkeys(1.0 / max(1.0, min(by, scale)) for by in (1.0, 16.0, 256.0, math.inf)):
                with torch.autocast(root.device.type, enabled=False):
                    *found, own = torch.autograd.grad(root * shrunk, inputs, retain_graph=True, allow_unused=True)
                factor = 0.0 if own is None else float(own) / shrunk
                gradient = self._laid_out(live, found) / shrunk
                if bool(torch.isfinite(gradient).all()):
                    break
        except RuntimeError as error:
            return None, f"its gradient could not be taken: {str(error).splitlines()[0]}", True, 1.0
        finally:
            _BUSY.discard(id(self))
        reached = any(part is not None for part in found)
        if factor == 0 or not math.isfinite(factor):
            return None, "the loop gives it no weight" if factor == 0 else "its weight is no number", reached, 1.0
        return gradient / factor, "", reached, factor

    def _true_gradient(self, loss: Tensor) -> tuple[Tensor | None, str, bool]:
        """Gradient of a loss, why not, and whether it depends on the weights."""
        if not loss.requires_grad:
            return None, "the loss carries no gradient", False
        if loss.numel() != 1:
            return None, "the loss is not a single number", True
        live = [value for value in self._layout if value.requires_grad]
        scale = self._scale_now()
        _BUSY.add(id(self))
        try:
            # The loop weighs a loss before it scales it: where half precision overflows here, it need not there.
            for factor in dict.fromkeys(max(1.0, scale / by) for by in (1.0, 16.0, 256.0, math.inf)):
                # A backward is run outside of autocast, whatever the loss stands in.
                with torch.autocast(loss.device.type, enabled=False):
                    found = torch.autograd.grad(loss * factor, live, retain_graph=True, allow_unused=True)
                gradient = self._laid_out(live, found) / factor
                if bool(torch.isfinite(gradient).all()):
                    break
        except RuntimeError as error:
            return None, f"its gradient could not be taken: {str(error).splitlines()[0]}", True
        finally:
            _BUSY.discard(id(self))
        return gradient, "", any(part is not None for part in found)

    def _laid_out(self, live: Sequence[Tensor], found: Sequence[Tensor | None]) -> Tensor:
        by = {id(value): part for value, part in zip(live, found, strict=True)}
        return flat(self._layout, [by.get(id(value)) for value in self._layout])

    def _empty(self) -> bool:
        """Whether no gradient is held."""
        return all(value.grad is None or not bool(value.grad.any()) for value in self._layout)

    # Steps.

    def _skipped(self) -> None:
        """Note a step that a scaler left out: it has lowered its scale since."""
        now = self._scale_now()
        if self._scaler is not None and now < self._scale and any(batch.backwards for batch in self._since):
            self._end(gradient=None, applied=False, finite=False, where="")
        self._scale = now

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        fused_scale = vars(optimizer).get("grad_scale")  # where the scaler leaves it to the optimiser to unscale
        fused_inf = vars(optimizer).get("found_inf")
        gradient = flat(self._layout, [value.grad for value in self._layout]) if self._wanted() else None
        if gradient is not None and fused_scale is not None:
            gradient = gradient / fused_scale.to(gradient.device)
        self._alive |= {
            id(value) for group in optimizer.param_groups for value in group["params"] if value.grad is not None
        }
        own = self._held()
        skipped = fused_inf is not None and bool(fused_inf.item())
        finite = gradient is None or bool(torch.isfinite(gradient).all())
        self._end(gradient=gradient, applied=not skipped, finite=finite, where=caller()[0])
        if gradient is not None:
            others = [value.grad for value in self._beside() if value.grad is not None and id(value) not in own]
            self.seen.steps[-1].around = float(flat(others, others).norm()) if others else 0.0
        self._scale = self._scale_now()
        self._within = 0

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._within > 0:
            self.seen.steps[-1].inside = self._within
        self._within = -1

    def _end(self, *, gradient: Tensor | None, applied: bool, finite: bool, where: str) -> None:
        self.seen.steps.append(
            Step(
                micro_batches=self._since,
                backwards=self._backwards,
                gradient=gradient,
                applied=applied,
                scale=self._scale,
                finite=finite,
                rates=[float(group["lr"]) for group in self._optimizer.param_groups],
                ticks=self._ticks(),
                forwards=self._forwards,
                where=where,
            )
        )
        self._new_window()

    def _new_window(self) -> None:
        self._since, self._backwards, self._nodes, self._open, self._forwards = [], [], [], None, 0
        if not self._wanted():
            return
        trainable, held = [value for _, value in self._trainable()], self._held()
        # What no optimiser holds is nobody's business to zero.
        self._layout = [value for value in trainable if id(value) in held] or trainable
        start = 0
        self._places = {}
        for value in self._layout:
            size = value.numel() * (2 if value.is_complex() else 1)
            self._places[id(value)] = slice(start, start + size)
            start += size
            if id(value) not in self._hooked:
                self._hooked[id(value)] = value.register_post_accumulate_grad_hook(self._accumulated)
        self._size = start

    def _wanted(self) -> bool:
        """Whether the gradients of this window are to be taken."""
        return len(self.seen.steps) % self._every == 0

    def _trainable(self) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in self._weights() if value.requires_grad]

    def _held(self) -> set[int]:
        return {id(value) for group in self._optimizer.param_groups for value in group["params"]}

    def _ticks(self) -> int | None:
        return None if self._scheduler is None else int(self._scheduler.last_epoch) - self._ticked

    def _scale_now(self) -> float:
        return float(self._scaler.get_scale()) if self._scaler is not None and self._scaler.is_enabled() else 1.0


def _has_many(value: Tensor) -> bool:
    """Whether a tensor holds so many different numbers that they are not all simple ones by chance."""
    return (
        value.is_floating_point() and value.numel() >= 16 and int(value.detach().flatten()[:64].unique().numel()) >= 8
    )


def _of_bfloat16(value: Tensor) -> bool:
    held = value.detach()
    return bool((held.bfloat16().to(held.dtype) == held).all())


def _is_mean(node: Node | None) -> bool:
    """Whether what a node gives is a mean, or a sum of terms of which one at least is an unweighted mean."""
    if node is None:
        return False
    if node.name().startswith(_ADDED):
        return any(source is not None and _is_mean(source) for source, _ in node.next_functions)
    return node.name().startswith(_MEANS)


def caller() -> tuple[str, tuple[str, ...]]:
    """File and line of the innermost frame that is neither torch's nor ours, and of all such frames; "" for none."""
    frame = inspect.currentframe()
    found: list[str] = []
    while frame is not None and len(found) < _DEPTH:
        name = frame.f_code.co_filename
        if not name.startswith(_HOUSE) and not name.startswith("<frozen"):
            found.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back
    return found[0] if found else "", tuple(found)
