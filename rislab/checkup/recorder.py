"""What a training loop does, recorded as it runs: forwards, raw losses, backwards, optimiser steps.

No backward is run here. The weight of a raw loss is the gradient that the loop's own backward hands to it; what that
backward adds to the gradients of the weights, over the weight of the loss, is the loss's true gradient.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from rislab.checkup.gradients import compare_gradients
from rislab.checkup.gradient_samples import GradientSamples
from rislab.checkup.loss_graph import factors, is_mean, summands, weighed_node
from rislab.checkup.sampling import Sampling
from rislab.checkup.trace import Backward, MicroBatch, Step, Trace, autocast_types, precision_of
from rislab.checkup.weight_changes import WeightChanges
from rislab.checkup.windows import Declared, StepComparison, is_parallel, step_window

# Frames of files in these folders are not the loop's: torch's, the checkup's, and those of other libraries.
_NEVER = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<frozen")
_LIBRARIES = str(Path(torch.__file__).parent.parent)
# So many frames tell one place of a loop from another.
_DEPTH = 24
# Bytes of gradients that are kept for the naming of faults, and of those in one window.
_KEPT, _IN_A_WINDOW = 16 * 2**20, 32 * 2**20


@dataclass
class _Forward:
    """The last forward of the network: its samples, whether it had gradients, its mode and its types."""

    samples: int = 0
    with_gradient: bool = True
    training: bool = True
    types: list[torch.dtype] = field(default_factory=list)  # of autocast and of the output


@dataclass
class _OpenWindow:
    """What came since the last step."""

    micro_batches: list[MicroBatch] = field(default_factory=list)
    nodes: dict[Node, MicroBatch] = field(default_factory=dict)
    backwards: list[Backward] = field(default_factory=list)
    values: Tensor | None = None  # of the weights when it began, as long as no step was seen
    compared: bool = False
    size: int = 0  # bytes of gradients


@dataclass
class _OpenBackward:
    """A backward of the loop under way."""

    record: Backward
    before: Tensor | None
    missing: int
    root: MicroBatch | None = None  # what backward() was called on, if the losses are not declared
    factor: float = math.nan  # with which it stands there
    reached: list[tuple[MicroBatch, float]] = field(default_factory=list)  # losses, with the weights given to them
    handles: list[RemovableHandle] = field(default_factory=list)
    factors: list[list[float]] = field(default_factory=list)  # of each term of a sum
    value: float | None = None  # of what backward() was called on, if the loss is found from it


class StepRecorder:
    """Records one optimiser's part in a loop; Watch and ProcessWatch call it.

    Args:
        weights: gives names and tensors of the network, asked anew for each window.
        optimizer: of the loop.
        scaler: gradient scaler of the loop, or None.
        scheduler: of the loop, or None.
        declared: what the loop is meant to do.
        every: compare each n-th window; None for the first ones, then ever more rarely.
        clipped_with: gives tensors whose gradients may be clipped together with those of the optimiser.
    """

    def __init__(
        self,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        optimizer: torch.optim.Optimizer,
        scaler: Any,
        scheduler: Any,
        declared: Declared,
        every: int | None,
        clipped_with: Callable[[], Iterable[Tensor]] = lambda: (),
    ) -> None:
        self.trace = Trace()
        self._samples = GradientSamples(weights, optimizer, scaler)
        self._changes = WeightChanges(self._samples)
        self._scheduler, self._declared, self._clipped_with = scheduler, declared, clipped_with
        self._sampling = Sampling(every)
        self._handles: list[RemovableHandle] = []
        self._forward, self._window = _Forward(), _OpenWindow()
        self._detached: set[tuple[str, ...]] = set()  # call stacks of losses that depend on none of the weights
        self._trained: set[tuple[str, ...]] = set()  # call stacks of losses that had a backward
        self._open: _OpenBackward | None = None
        self._scale = self._samples.scale()
        self._ticks_before = 0  # ticks of the scheduler before the recording
        self._evaluations = -1  # of the closure in the step under way; −1 outside of one
        self._stepped = False
        self._kept = 0

    def begin(self) -> None:
        """Begin to record the optimiser and the weights."""
        self._ticks_before += self._ticks() or 0
        self._changes.begin(self.trace)
        optimizer = self._samples.optimizer
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._open_window()

    def end(self) -> None:
        """Take all hooks away, and record what only the end shows."""
        self._note_skipped_step()
        self._note_moved_weights()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._window.nodes = {}
        self.trace.left = self._window.micro_batches
        self.trace.ticks = self._ticks()
        self._drop_evaluations()
        self._changes.end(self.trace)

    def _drop_evaluations(self) -> None:
        """Losses of a line that never had a backward, where others had one, are no training."""
        windows = [*(step.micro_batches for step in self.trace.steps), self.trace.left]
        for window in windows:
            window[:] = [batch for batch in window if batch.call_stack in self._trained or not self._trained]

    # Forwards and losses.

    def on_forward(self, inputs: Sequence[Any], training: bool) -> None:
        """A forward of the network begins.

        Args:
            inputs: of which the first tensor counts the samples.
            training: whether the network is in training mode.
        """
        forward = self._forward
        forward.with_gradient = torch.is_grad_enabled()
        if not forward.with_gradient:
            self._sampling.note_evaluation()
            return
        first = next((value for value in inputs if isinstance(value, Tensor) and value.dim()), None)
        forward.samples = 1 if first is None else int(first.shape[0])
        forward.training = training
        forward.types = autocast_types("cpu" if first is None else first.device.type)
        self._note_skipped_step()
        self._note_moved_weights()
        self.trace.forwards += 1

    def on_forward_end(self, output: Any) -> None:
        """A forward of the network is over, and has this output."""
        if isinstance(output, Tensor) and output.is_floating_point():
            self._forward.types.append(output.dtype)
        self._forward.with_gradient = torch.is_grad_enabled() and self._forward.with_gradient

    def on_loss(self, loss: Tensor, count: float | None, scale_free: bool) -> None:
        """A loss was computed.

        Args:
            loss: raw.
            count: equal parts that it is the mean of, None for one a sample.
            scale_free: whether it is no mean.
        """
        # A loss without a gradient, after a forward without one, is that of an evaluation.
        if not torch.is_grad_enabled() or (not self._forward.with_gradient and not loss.requires_grad):
            return
        batch = self._new_micro_batch(loss, count, scale_free)
        if not loss.requires_grad:
            batch.why = "the loss carries no gradient"
        elif loss.numel() != 1:
            batch.why = "the loss is not a single number"
        if batch.call_stack in self._detached:
            self.trace.detached_losses += 1
            return
        self._window.micro_batches.append(batch)
        if loss.requires_grad:
            loss.register_hook(lambda upstream, batch=batch: self._on_loss_backward(batch, upstream))
            if loss.grad_fn is not None:
                self._window.nodes[loss.grad_fn] = batch

    def _new_micro_batch(self, loss: Tensor, count: float | None, scale_free: bool) -> MicroBatch:
        where, call_stack = caller()
        value = loss.detach()
        weights = (weight.dtype for _, weight in self._samples.weights())
        types = (*weights, *self._forward.types, *autocast_types(loss.device.type), loss.dtype)
        number = float(value) if value.numel() == 1 and not value.is_complex() else math.nan
        return MicroBatch(
            samples=self._forward.samples,
            count=float(self._forward.samples) if count is None else count,
            loss=number,
            dtype=loss.dtype,
            gradient=None,
            why="",
            precision=precision_of(types),
            where=where,
            call_stack=call_stack,
            nonfinite=not math.isfinite(number) and not bool(torch.isfinite(value).all()),
            training=self._forward.training,
            scale_free=scale_free,
        )

    # Backwards.

    def on_backward(self, roots: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """A backward of the loop begins.

        Args:
            roots: tensors that it starts from, each with the gradient that was given for it, or None.
        """
        self._note_moved_weights()
        self._drop_window_of_nan()
        before = self._samples.gradients() / self._samples.scale() if self._window.compared else None
        fresh = None if before is None else not bool(before.any())
        record = Backward(self.trace.backwards, fresh, self._carried(before))
        self.trace.backwards += 1
        self._open = _OpenBackward(record, before, self._samples.missing())
        self._window.backwards.append(record)
        if not self.trace.loss_declared and roots:
            self._find_loss(roots)

    def _carried(self, before: Tensor | None) -> float | None:
        """What is left of the gradients of the last backward."""
        last = self._window.backwards[-1].after if self._window.backwards else None
        if last is None or before is None or len(last) != len(before):
            return None
        if torch.equal(before, last):
            return 1.0
        if not bool(before.any()):
            return 0.0
        change = compare_gradients(before, last)
        return change.alpha if is_parallel(change, 1e-3) else math.nan

    def _find_loss(self, roots: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Find the raw loss in what backward() was called on, and watch what weighs it."""
        assert self._open is not None
        opened, micro_batches = self._open, self._window.micro_batches
        known = {node: batch for node, batch in self._window.nodes.items() if batch in micro_batches}
        (root, upstream), *others = roots
        if others or root.numel() != 1 or root.grad_fn is None:
            terms = [batch for one, _ in roots if (batch := known.get(weighed_node(one, known))) is not None]  # type: ignore[arg-type]
            opened.root = terms[0] if terms and not others else self._new_micro_batch(root, None, True)
            opened.factor = 1.0
        else:
            node = weighed_node(root, known)
            opened.root = None if node is None else known.get(node)
            if opened.root is None:
                opened.root = self._new_micro_batch(root, None, not is_mean(node))
                opened.value = math.nan if root.is_complex() else float(root.detach())
                opened.factor = self._scale_of(upstream)
                if node is not None and node is not root.grad_fn:
                    opened.handles.append(node.register_prehook(self._on_factor))
            if self._window.compared and node is not None:
                self._watch_terms(node)
        if opened.root not in micro_batches:
            micro_batches.append(opened.root)

    @staticmethod
    def _scale_of(upstream: Tensor | None) -> float:
        return 1.0 if upstream is None or upstream.numel() != 1 else float(upstream)

    def _on_factor(self, upstream: Sequence[Tensor]) -> None:
        """The loop's backward has come to the raw loss: its weight."""
        if self._open is not None and upstream and upstream[0] is not None:
            self._open.factor = float(upstream[0].detach())

    def _watch_terms(self, node: Node) -> None:
        """Watch the factors of each term of a sum."""
        assert self._open is not None
        terms = summands(node)
        if len(terms) < 2:
            return
        for term in terms:
            values: list[float] = []
            self._open.factors.append(values)
            for one in factors(term):

                def note(upstream: Sequence[Tensor], values: list[float] = values) -> None:
                    if upstream and upstream[0] is not None and upstream[0].numel() == 1:
                        values.append(float(upstream[0].detach()))

                self._open.handles.append(one.register_prehook(note))

    def _drop_window_of_nan(self) -> None:
        """A loop that meets NaN may throw its window away: what has come before belongs to no step."""
        window = self._window
        used = [batch for batch in window.micro_batches if batch.backwards]
        if any(batch.nonfinite for batch in used) and self._samples.empty():
            last = window.micro_batches.index(used[-1])
            rest = window.micro_batches[last + 1 :]
            window.micro_batches = window.micro_batches[: last + 1]
            nodes = window.nodes
            self._end_window(gradient=None, applied=False, finite=False, where="")
            self._window.micro_batches, self._window.nodes = rest, nodes

    def _on_loss_backward(self, batch: MicroBatch, upstream: Tensor) -> None:
        """A backward of the loop has come to this loss."""
        opened = self._open
        if opened is None or upstream.numel() != 1:
            return
        weight = float(upstream.detach())
        if batch is opened.root:
            opened.factor = weight
        elif self.trace.loss_declared:
            opened.reached.append((batch, weight / self._samples.scale()))
        else:
            # A term of what backward was called on.
            if opened.root is not None and not batch.scale_free:
                opened.root.term_weights = (*opened.root.term_weights, weight / self._samples.scale())
            if batch in self._window.micro_batches:
                self._window.micro_batches.remove(batch)

    def on_backward_end(self) -> None:
        """The backward has returned."""
        opened, self._open = self._open, None
        if opened is None:
            return
        for handle in opened.handles:
            handle.remove()
        if opened.root is not None:
            self._finish_root(opened, opened.root)
        growth = self._growth(opened)
        reached = growth is None or bool((growth != 0).any()) or self._samples.missing() < opened.missing
        for batch, _ in opened.reached:
            if not reached or batch.call_stack in self._detached:
                self._drop_detached(batch)
        if reached:
            self._note_backward(opened, growth)

    def _growth(self, opened: _OpenBackward) -> Tensor | None:
        """What a backward added to the gradients, None if the window is not compared."""
        if opened.before is None:
            return None
        after = self._samples.gradients() / self._samples.scale()
        for earlier in self._window.backwards:
            earlier.after = None
        opened.record.after = after
        return after - opened.before if len(after) == len(opened.before) else None

    def _finish_root(self, opened: _OpenBackward, batch: MicroBatch) -> None:
        """What the backward has shown of the loss that was found from it."""
        factor = opened.factor
        if opened.value is not None:
            batch.loss = opened.value / (factor or 1.0)
            batch.nonfinite = not math.isfinite(opened.value)
        if factor:
            batch.term_factors = tuple(tuple(value / factor for value in values) for values in opened.factors)
        opened.reached = [(batch, factor / self._samples.scale())]

    def _drop_detached(self, batch: MicroBatch) -> None:
        """A loss that depends on none of the weights."""
        self.trace.detached_losses += 1
        self._detached.add(batch.call_stack)
        if batch in self._window.micro_batches:
            self._window.micro_batches.remove(batch)

    def _note_backward(self, opened: _OpenBackward, growth: Tensor | None) -> None:
        """Give the losses that a backward came to their weights, and what it added to the gradients."""
        batches = [(batch, weight) for batch, weight in opened.reached if batch.call_stack not in self._detached]
        total, finite = sum(weight for _, weight in batches), growth is None or bool(torch.isfinite(growth).all())
        why = (
            ""
            if total and math.isfinite(total)
            else "the loop gives it no weight"
            if total == 0
            else "its weight is no number"
        )
        if growth is not None and self._window.size + growth.nbytes > _IN_A_WINDOW:
            why = why or f"more than {_IN_A_WINDOW >> 20} MB of gradients in one window"
        gradient = growth / total if growth is not None and not why else None
        if gradient is not None:
            self._window.size += gradient.nbytes
        for batch, weight in batches:
            batch.backwards += 1
            batch.weight += weight
            batch.last = opened.record
            batch.nonfinite |= not finite
            batch.why = batch.why or why
            # Several losses with one backward share what it added.
            batch.gradient = gradient
            self._trained.add(batch.call_stack)

    # Steps.

    def _note_skipped_step(self) -> None:
        """Record a step that a scaler left out: it has lowered its scale since."""
        scale = self._samples.scale()
        used = any(batch.backwards for batch in self._window.micro_batches)
        if self._samples.scaler is not None and scale < self._scale and used:
            self._end_window(gradient=None, applied=False, finite=False, where="")
            self._sampling.note_change()
        self._scale = scale

    def _note_moved_weights(self) -> None:
        """Record a step that no hook reported, as that of another library: the weights have moved since a backward."""
        window = self._window
        if self._stepped or window.values is None or not any(batch.backwards for batch in window.micro_batches):
            return
        values = self._samples.values()
        if len(values) == len(window.values) and not torch.equal(values, window.values):
            last = window.backwards[-1].after if window.backwards else None
            self._end_window(gradient=last, applied=True, finite=True, where="", inferred=True)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """A step begins; one with a closure is handed a closure that reports each evaluation."""
        self._stepped, self._evaluations = True, 0
        given = [*args, *kwargs.values()]
        if not any(map(_is_closure, given)):
            self._end_at_step()
            return None
        return tuple(map(self._reporting, args)), {name: self._reporting(value) for name, value in kwargs.items()}

    def _reporting(self, value: Any) -> Any:
        """A closure that reports its evaluations, for a closure; other values as they are."""
        if not _is_closure(value):
            return value

        def evaluated(*args: Any, **kwargs: Any) -> Any:
            output = value(*args, **kwargs)
            self._end_at_step()
            return output

        return evaluated

    def _end_at_step(self) -> None:
        """The optimiser has the gradients of a window."""
        if self._open is not None:
            # An optimiser that steps in a hook of the backward itself.
            self.on_backward_end()
        # Where the scaler leaves it to the optimiser to unscale.
        fused_scale, fused_inf = (vars(self._samples.optimizer).get(name) for name in ("grad_scale", "found_inf"))
        factor = 1.0 if fused_scale is None else float(fused_scale)
        gradient = self._samples.gradients() / factor if self._window.compared else None
        skipped = fused_inf is not None and bool(fused_inf.item())
        norm = math.nan if gradient is None else self._samples.norm() / factor
        self._changes.at_step()
        self._end_window(
            gradient=gradient,
            norm=norm,
            applied=not skipped,
            finite=gradient is None or math.isfinite(norm),
            where=caller()[0],
        )
        if gradient is not None:
            own = self._samples.optimised()
            others = [value for value in self._clipped_with() if id(value) not in own]
            self.trace.steps[-1].other_norm = self._samples.norm_of(others)
        self._scale = self._samples.scale()
        self._evaluations = max(0, self._evaluations) + 1

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._evaluations == 0:
            # A closure that was not called.
            self._end_at_step()
        self._evaluations = -1

    def _end_window(
        self,
        *,
        gradient: Tensor | None,
        applied: bool,
        finite: bool,
        where: str,
        norm: float = math.nan,
        inferred: bool = False,
    ) -> None:
        step = Step(
            micro_batches=self._window.micro_batches,
            backwards=self._window.backwards,
            gradient=gradient,
            norm=norm if gradient is None or math.isfinite(norm) or not finite else float(gradient.norm()),
            applied=applied,
            scale=self._scale,
            finite=finite,
            rates=[float(group["lr"]) for group in self._samples.optimizer.param_groups],
            ticks=self._ticks(),
            where=where,
            evaluation=max(0, self._evaluations),
            inferred=inferred,
        )
        self.trace.steps.append(step)
        self._compare(step)
        self._sampling.note_step(step)
        self._open_window()

    def _compare(self, step: Step) -> None:
        """Compare a step with its window at once, and keep the gradients only where they may name a fault."""
        if step.gradient is None:
            return
        used = [batch for batch in step.micro_batches if batch.call_stack in self._trained]
        window = step_window(step, used, len(self.trace.steps), self._declared, self.trace.loss_declared)
        kept = self._window.size + 2 * step.gradient.nbytes
        if isinstance(window, StepComparison) and (window.exact() or (self._kept and self._kept + kept > _KEPT)):
            step.comparison = window.without_gradients()
        elif not self._kept or self._kept + kept <= _KEPT:
            self._kept += kept
            return
        for batch in step.micro_batches:
            batch.gradient = None
        for backward in step.backwards:
            backward.after = None
        step.gradient = None

    def _open_window(self) -> None:
        self._window = _OpenWindow(compared=self._sampling.wanted())
        if self._window.compared or not self._stepped:
            self._samples.lay_out()
        if not self._stepped:
            self._window.values = self._samples.values()

    def _ticks(self) -> int | None:
        """Ticks of the scheduler since the beginning, None without one."""
        return None if self._scheduler is None else int(self._scheduler.last_epoch) - self._ticks_before


def _is_closure(value: Any) -> bool:
    return callable(value) and not isinstance(value, Tensor | torch.optim.Optimizer)


def caller() -> tuple[str, tuple[str, ...]]:
    """File and line of the innermost frame of the loop, and all frames that led there, with those of libraries inside.

    What a library calls a loss from tells its losses apart; what a library is called by does not.
    """
    frame = inspect.currentframe()
    where = ""
    frames: list[str] = []
    while frame is not None and len(frames) < _DEPTH:
        name = frame.f_code.co_filename
        if not name.startswith(_NEVER):
            library = name.startswith(_LIBRARIES)
            place = f"{name}:{frame.f_lineno}"
            if not library or not where:
                frames.append(place)
            where = where or ("" if library else place)
        frame = frame.f_back
    return where, tuple(frames)
