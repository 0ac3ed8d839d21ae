"""What a training loop does, recorded by public hooks: forwards, raw losses, backwards, optimiser steps.

A loss that was declared is intercepted where it is computed. Without one, backwards are: the tensor that backward() was
called on is followed down through its factors, to what the loop multiplied or divided.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from rislab.checkup.trace import Backward, MicroBatch, Step, Trace, autocast_types, flat, precision_of
from rislab.checkup.true_gradients import GradientProbe, is_mean, own_backward, weighed_node
from rislab.checkup.weight_changes import WeightChanges

# Frames of files in these folders are not the loop's.
_OTHERS = (str(Path(torch.__file__).parent.parent), str(Path(__file__).parent))
# So many frames tell one place of a loop from another.
_DEPTH = 24


@dataclass
class _Forward:
    """The last forward of the network: its samples, whether it had gradients, its mode and its types."""

    samples: int = 0
    with_gradient: bool = True
    training: bool = True
    types: list[torch.dtype] = field(default_factory=list)  # of autocast and of the output
    inside: int = -1  # forwards within the step under way; −1 outside of one


@dataclass
class _OpenWindow:
    """What came since the last step."""

    micro_batches: list[MicroBatch] = field(default_factory=list)
    nodes: dict[Node, MicroBatch] = field(default_factory=dict)
    backwards: list[Backward] = field(default_factory=list)
    last: Backward | None = None


class StepRecorder:
    """Records one optimiser's part in a loop; Watch and ProcessWatch call it.

    Args:
        weights: gives names and tensors of the network, asked anew for each window.
        optimizer: of the loop.
        scaler: gradient scaler of the loop, or None.
        scheduler: of the loop, or None.
        every: take gradients of each n-th window.
        clipped_with: gives tensors whose gradients may be clipped together with those of the optimiser.
    """

    def __init__(
        self,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        optimizer: torch.optim.Optimizer,
        scaler: Any,
        scheduler: Any,
        every: int,
        clipped_with: Callable[[], Iterable[Tensor]] = lambda: (),
    ) -> None:
        self.trace = Trace()
        self._probe = GradientProbe(weights, optimizer, scaler)
        self._changes = WeightChanges(self._probe)
        self._scheduler, self._every, self._clipped_with = scheduler, every, clipped_with
        self._handles: list[RemovableHandle] = []
        self._forward, self._window = _Forward(), _OpenWindow()
        self._detached: set[tuple[str, ...]] = set()  # call stacks of losses that depend on none of the weights
        self._backwards = 0
        self._new_loss = True  # whether a loss has come since the last backward
        self._root: MicroBatch | None = None
        self._scale = self._probe.scale()
        self._ticks_before = 0  # ticks of the scheduler before the recording

    def begin(self) -> None:
        """Begin to record the optimiser and the weights."""
        self._ticks_before += self._ticks() or 0
        self._changes.begin(self.trace)
        optimizer = self._probe.optimizer
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._open_window()

    def end(self) -> None:
        """Take all hooks away, and record what only the end shows."""
        self._note_skipped_step()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._probe.remove()
        self._window.nodes = {}
        self.trace.left = self._window.micro_batches
        self.trace.ticks = self._ticks()
        self._drop_evaluations()
        self._changes.end(self.trace)

    def _drop_evaluations(self) -> None:
        """Losses of a line that never had a backward, where others had one, are no training."""
        windows = [*(step.micro_batches for step in self.trace.steps), self.trace.left]
        trained = {batch.call_stack for window in windows for batch in window if batch.backwards}
        for window in windows:
            window[:] = [batch for batch in window if batch.call_stack in trained or not trained]

    # Forwards and losses.

    def on_forward(self, inputs: Sequence[Any], training: bool) -> None:
        """A forward of the network begins.

        Args:
            inputs: of which the first tensor counts the samples.
            training: whether the network is in training mode.
        """
        if own_backward():
            return
        forward = self._forward
        forward.with_gradient = torch.is_grad_enabled()
        if not forward.with_gradient:
            return
        first = next((value for value in inputs if isinstance(value, Tensor) and value.dim()), None)
        forward.samples = 1 if first is None else int(first.shape[0])
        forward.training = training
        forward.types = autocast_types("cpu" if first is None else first.device.type)
        if forward.inside >= 0:
            forward.inside += 1
        self._note_skipped_step()
        self.trace.forwards += 1

    def on_forward_end(self, output: Any) -> None:
        """A forward of the network is over, and has this output."""
        if isinstance(output, Tensor) and output.is_floating_point():
            self._forward.types.append(output.dtype)
        self._forward.with_gradient = torch.is_grad_enabled() and self._forward.with_gradient

    def on_loss(self, loss: Tensor, count: float | None, scale_free: bool, *, at_once: bool) -> None:
        """A loss was computed.

        Args:
            loss: raw.
            count: equal parts that it is the mean of, None for one a sample.
            scale_free: whether it is no mean.
            at_once: take its gradient now; else when a backward comes.
        """
        # A loss without a gradient, after a forward without one, is that of an evaluation.
        if own_backward() or not torch.is_grad_enabled():
            return
        if not self._forward.with_gradient and not loss.requires_grad:
            return
        batch = self._new_micro_batch(loss, count, scale_free)
        if at_once and self._compared():
            batch.gradient, batch.why, reached, _ = self._probe.of_loss(loss)
            batch.nonfinite |= batch.gradient is not None and not bool(torch.isfinite(batch.gradient).all())
            if loss.requires_grad and not reached and not batch.why:
                self._detached.add(batch.call_stack)
        elif not loss.requires_grad:
            batch.why = "the loss carries no gradient"
        if batch.call_stack in self._detached:
            self.trace.detached_losses += 1
            return
        self._add_micro_batch(batch)
        if loss.requires_grad:
            loss.register_hook(lambda upstream, batch=batch: self._on_loss_backward(batch, upstream))
            if loss.grad_fn is not None:
                self._window.nodes[loss.grad_fn] = batch

    def _new_micro_batch(self, loss: Tensor, count: float | None, scale_free: bool) -> MicroBatch:
        where, call_stack = caller()
        weights = (value.dtype for _, value in self._probe.weights())
        return MicroBatch(
            samples=self._forward.samples,
            count=float(self._forward.samples) if count is None else count,
            # A loop may divide it in place.
            loss=loss.detach().clone(),
            gradient=None,
            why="",
            precision=precision_of((*weights, *self._forward.types, *autocast_types(loss.device.type), loss.dtype)),
            where=where,
            call_stack=call_stack,
            nonfinite=not bool(torch.isfinite(loss).all()),
            training=self._forward.training,
            scale_free=scale_free,
        )

    def _add_micro_batch(self, batch: MicroBatch) -> None:
        self._window.micro_batches.append(batch)
        self._new_loss = True

    # Backwards.

    def _on_loss_backward(self, batch: MicroBatch, upstream: Tensor) -> None:
        """A backward of the loop has come to this loss."""
        if own_backward():
            return
        window = self._window
        if not self.trace.loss_declared:
            if self._root is not None and batch is not self._root and batch in window.micro_batches:
                # A term of what backward was called on.
                if self._compared() and not batch.scale_free:
                    self._root.term_weights = (*self._root.term_weights, float(upstream) / self._probe.scale())
                window.micro_batches.remove(batch)
            return
        earlier = [other for other in window.micro_batches if other is not batch and other.backwards]
        if any(other.nonfinite for other in earlier) and self._probe.empty():
            # A loop that meets NaN may throw its window away: what has come before belongs to no step.
            window.micro_batches = window.micro_batches[: window.micro_batches.index(earlier[-1]) + 1]
            self._end_window(gradient=None, applied=False, finite=False, where="")
            self._window.micro_batches = [batch]
        if self._new_loss or self._window.last is None:
            self._begin_backward()
        self._add_backward(batch, float(upstream) / self._probe.scale() if self._compared() else 0.0)

    def _add_backward(self, batch: MicroBatch, weight: float) -> None:
        batch.backwards += 1
        batch.weight += weight
        batch.last = self._window.last

    def _begin_backward(self) -> None:
        """A backward begins: record the gradients that are there already."""
        self._new_loss = False
        backward = Backward(self._backwards)
        self._backwards += 1
        self._window.last = backward
        self._window.backwards.append(backward)
        if self._compared():
            backward.before = self._probe.held() / self._probe.scale()
            backward.after = backward.before.clone()
            backward.fresh = not bool(backward.before.any())

    def _on_accumulated(self, parameter: Tensor) -> None:
        """A backward has come to a parameter."""
        if self._window.last is not None and self._window.last.after is not None:
            self._probe.update(self._window.last.after, parameter)

    def on_backward(self, root: Tensor, upstream: Tensor | None) -> None:
        """backward() was called on a tensor: find the loss in it, and take its gradient."""
        if own_backward():
            return
        micro_batches = self._window.micro_batches
        known = {node: batch for node, batch in self._window.nodes.items() if batch in micro_batches}
        node = weighed_node(root, known)
        batch = None if node is None else known.get(node)
        if not self._compared():
            if batch is None:
                batch = self._new_micro_batch(root, None, True)
                if batch.call_stack in self._detached:
                    return
                self._add_micro_batch(batch)
            weight = 0.0
        else:
            gradient, why, reached, factor = self._probe.of_root(root, node)
            if not reached and not why:
                self.trace.detached_losses += 1
                self._detached.add(caller()[1] if batch is None else batch.call_stack)
                if batch is not None:
                    micro_batches.remove(batch)
                return
            if batch is None:
                batch = self._new_micro_batch(root / factor if factor else root, None, not is_mean(node))
                self._add_micro_batch(batch)
            batch.gradient, batch.why = gradient, why
            batch.nonfinite |= gradient is not None and not bool(torch.isfinite(gradient).all())
            weight = (1.0 if upstream is None else float(upstream)) * factor / self._probe.scale()
        self._begin_backward()
        self._add_backward(batch, weight)
        self._root = batch

    def on_backward_end(self) -> None:
        """backward() has returned."""
        self._root = None

    # Steps.

    def _note_skipped_step(self) -> None:
        """Record a step that a scaler left out: it has lowered its scale since."""
        scale = self._probe.scale()
        used = any(batch.backwards for batch in self._window.micro_batches)
        if self._probe.scaler is not None and scale < self._scale and used:
            self._end_window(gradient=None, applied=False, finite=False, where="")
        self._scale = scale

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # Where the scaler leaves it to the optimiser to unscale.
        fused_scale, fused_inf = (vars(optimizer).get(name) for name in ("grad_scale", "found_inf"))
        gradient = self._probe.held() if self._compared() else None
        if gradient is not None and fused_scale is not None:
            gradient = gradient / fused_scale.to(gradient.device)
        self._changes.at_step()
        own = self._probe.optimised()
        skipped = fused_inf is not None and bool(fused_inf.item())
        finite = gradient is None or bool(torch.isfinite(gradient).all())
        self._end_window(gradient=gradient, applied=not skipped, finite=finite, where=caller()[0])
        if gradient is not None:
            others = [value.grad for value in self._clipped_with() if value.grad is not None and id(value) not in own]
            self.trace.steps[-1].other_norm = float(flat(others, others).norm()) if others else 0.0
        self._scale = self._probe.scale()
        self._forward.inside = 0

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._forward.inside > 0:
            self.trace.steps[-1].forwards_inside = self._forward.inside
        self._forward.inside = -1

    def _end_window(self, *, gradient: Tensor | None, applied: bool, finite: bool, where: str) -> None:
        self.trace.steps.append(
            Step(
                micro_batches=self._window.micro_batches,
                backwards=self._window.backwards,
                gradient=gradient,
                applied=applied,
                scale=self._scale,
                finite=finite,
                rates=[float(group["lr"]) for group in self._probe.optimizer.param_groups],
                ticks=self._ticks(),
                where=where,
            )
        )
        self._open_window()

    def _open_window(self) -> None:
        self._window = _OpenWindow()
        if self._compared():
            self._probe.lay_out(self._on_accumulated)

    def _compared(self) -> bool:
        """Whether the gradients of this window are to be taken."""
        return len(self.trace.steps) % self._every == 0

    def _ticks(self) -> int | None:
        """Ticks of the scheduler since the beginning, None without one."""
        return None if self._scheduler is None else int(self._scheduler.last_epoch) - self._ticks_before


def caller() -> tuple[str, tuple[str, ...]]:
    """File and line of the innermost frame that is neither torch's nor ours, and of all such frames; "" for none."""
    frame = inspect.currentframe()
    frames: list[str] = []
    while frame is not None and len(frames) < _DEPTH:
        name = frame.f_code.co_filename
        if not name.startswith(_OTHERS) and not name.startswith("<frozen"):
            frames.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back
    return frames[0] if frames else "", tuple(frames)
