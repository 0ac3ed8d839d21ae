"""What a training loop does, recorded as it runs: forwards, raw losses, backwards, optimiser steps.

No backward is run here. The weight of a raw loss is the gradient that the loop's own backward hands to it; what that
backward adds to the gradients of the weights, over the weight of the loss, is the loss's true gradient.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.utils.hooks import RemovableHandle, unserializable_hook

from rislab.checkup.recording.call_stack import by_library, caller
from rislab.checkup.recording.counting import StepCounter
from rislab.checkup.recording.current_forward import CurrentForward, watch_use
from rislab.checkup.recording.events import ForwardEvent, Roots
from rislab.checkup.recording.gradient_samples import GradientSamples, Norms
from rislab.checkup.recording.gradients import length_of
from rislab.checkup.recording.loss_graph import depends_on
from rislab.checkup.recording.open_backward import OpenBackward, number_of
from rislab.checkup.recording.open_window import LossLines, OpenWindow
from rislab.checkup.recording.optimizers import ForeignOptimizer, fused_scaling, has_stepped, reporting_closures
from rislab.checkup.recording.own_operations import unobserved
from rislab.checkup.recording.sampling import Sampling
from rislab.checkup.recording.schedules import SchedulerTicks
from rislab.checkup.recording.step_storage import StepStorage
from rislab.checkup.recording.trace import Backward, Clip, MicroBatch, Step, Trace
from rislab.checkup.recording.weight_changes import WeightChanges
from rislab.checkup.recording.windows import Declared
from rislab.errors import error_text

# Forwards of which it is noticed whether a backward comes to them, besides those of windows that are compared.
FORWARDS = 64
# Bytes of gradients that are kept in one window.
_IN_A_WINDOW = 32 * 2**20


class StepRecorder:
    """Records one optimiser's part in a loop; Watch and ProcessWatch call it.

    Args:
        samples: of the gradients of the weights.
        scheduler: of the loop, or None.
        declared: what the loop is meant to do.
        every: compare each n-th window; None for the first ones, then ever more rarely.
    """

    def __init__(self, samples: GradientSamples, scheduler: Any, declared: Declared, every: int | None) -> None:
        self.trace = Trace()
        self.counter: StepCounter | None = None  # while windows are only counted
        self._samples, self._changes = samples, WeightChanges(samples)
        self._ticks = SchedulerTicks(scheduler)
        self._sampling, self._handles = Sampling(every), list[RemovableHandle]()
        self._forward, self._window, self._lines = CurrentForward(), OpenWindow(), LossLines(samples.asking)
        self._open: OpenBackward | None = None
        self._scale, self._storage = self._samples.scale(), StepStorage(self.trace, declared)
        self._thread: int | None = None  # of the last backward
        self._evaluations = -1  # of the closure in the step under way; −1 outside of one

    def notify(self, event: Callable[..., Any], *args: Any) -> None:
        """Report an event, a method of this class; one that cannot be recorded ends the recording, never the loop."""
        if self.trace.failure:
            return
        try:
            event(self, *args)
        except Exception as error:
            self.trace.failure = f"{type(error).__name__}: {error_text(error)}"

    def begin(self) -> None:
        """Begin to record the optimiser and the weights."""
        self.notify(StepRecorder._begin)

    def _begin(self) -> None:
        self.trace.schedule = self._ticks.begin()
        self._changes.begin(self.trace)
        self._hook()
        self._open_window()
        # What began before the recording is not known in full.
        self._window.partial = not self._samples.empty()
        self._window.compared &= not self._window.partial
        self.trace.missed = int(self._window.partial or has_stepped(self._samples.optimizer))

    def adopt(self, optimizer: torch.optim.Optimizer, anew: bool) -> None:
        """Another optimiser has taken over the same tensors: one of the same kind that was made `anew`, or not."""
        for handle in self._handles:
            handle.remove()
        if isinstance(self._samples.optimizer, ForeignOptimizer):  # itself it was there before, unknown
            self._window.partial = True
            self.trace.drop_steps()
        self._samples.optimizer = optimizer
        if anew:
            self.trace.note_remade()
        self._hook()

    def _hook(self) -> None:
        optimizer = self._samples.optimizer
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(partial(unobserved, False, self.notify, StepRecorder._after_step)),
        ]

    def end(self, error: BaseException | None = None) -> None:
        """Take all hooks away, and record what only the end shows, after an error or not."""
        for handle in self._handles:
            handle.remove()
        self.trace.crashed = isinstance(error, Exception)
        self.notify(StepRecorder._end)

    def _end(self) -> None:
        self._note_skipped_step()
        self._note_moved_weights()
        self._window.nodes = {}
        self.trace.left = self._window.micro_batches
        self.trace.ticks = self._ticks.count()
        for batches in (*(step.micro_batches for step in self.trace.steps), self.trace.left):
            batches[:] = self._lines.training(batches)
        self._changes.end(self.trace)

    # Forwards and losses.

    def on_forward(self, training: bool, own: bool) -> None:
        """A forward of the network begins, in training mode or not, of a part with tensors of the optimiser or not."""
        self._forward.with_gradient = torch.is_grad_enabled()
        if not self._forward.with_gradient:
            self._sampling.note_evaluation()
            return
        self._forward.begin(training, own)
        if not self.trace.forwards:
            self._window.drop_earlier(self.trace, id(self))
        self._note_skipped_step()
        self._note_moved_weights()
        self.trace.forwards += 1

    def on_forward_end(self, call: ForwardEvent) -> None:
        """A forward of the network is over; the first of its inputs counts the samples."""
        self._window.note_forward(call.samples, self._forward.with_gradient)
        if self._forward.with_gradient:
            if self._forward.training and (self.trace.forwards <= FORWARDS or self._window.compared):
                watch_use(call, self.trace)
            self._forward.end(call, self._window.compared)

    def on_loss(self, loss: Tensor, count: float | None, scale_free: bool) -> None:
        """A loss was computed; CurrentForward.micro_batch() says what is known of it."""
        # A loss without a gradient, after a forward without one, is that of an evaluation.
        if not torch.is_grad_enabled() or (not self._forward.with_gradient and not loss.requires_grad):
            return
        if self.counter is not None and self.counter.note_loss(loss, count):
            return
        batch = self._new_micro_batch(loss, count, scale_free)
        if not loss.requires_grad:
            batch.why = "the loss carries no gradient"
        elif loss.numel() != 1:
            batch.why = "the loss is not a single number"
        if self._lines.is_detached(batch.call_stack):
            self.trace.note_detached(batch.where)
            return
        self._window.micro_batches.append(batch)
        node = loss.grad_fn
        if node is not None and not loss.output_nr and node not in self._window.nodes:
            self._window.nodes[node] = batch
        elif node is not None:
            # Its node gave others as well.
            loss.register_hook(unserializable_hook(lambda given: self._on_loss_backward(batch, [given])))

    def _new_micro_batch(self, loss: Tensor, count: float | None, scale_free: bool) -> MicroBatch:
        return self._forward.micro_batch(loss, count, scale_free, self._samples.dtypes)

    # Backwards.

    def on_backward(self, roots: Roots, reached: set[int]) -> None:
        """A backward of the loop begins; recorders enter themselves in `reached` if it comes to their gradients."""
        self._thread = threading.get_ident()
        self._note_moved_weights()
        if self._lines.mixed and roots and not depends_on(roots[0][0], self._samples.optimised()):
            return
        self._drop_window_of_nan()
        if not self._samples.dtypes:
            # Tensors that the first forward has made.
            self._samples.lay_out()
        if not self.trace.backwards:
            self._window.partial = not self._samples.empty()
        before = self._samples.unscaled() if self._window.compared else None
        fresh = None if before is None else self._samples.are_zero(before)
        record = Backward(self.trace.backwards, fresh, self._window.carried(before), reached)
        self.trace.backwards += 1
        opened = self._open = OpenBackward(record, before, 0 if before is None else self._samples.missing())
        self._window.backwards.append(record)
        if not self.trace.loss_declared and roots:
            opened.find_loss(roots, self._window.known(), self._new_micro_batch, self._window.compared)
            if opened.root is not None and opened.root not in self._window.micro_batches:
                self._window.micro_batches.append(opened.root)
        opened.watch_losses(roots, self._window.nodes, self._on_loss_backward)

    def _drop_window_of_nan(self) -> None:
        """A loop that meets NaN may throw its window away: what has come before belongs to no step."""
        nodes = self._window.nodes
        if self._window.used_nan() and self._samples.empty():
            rest = self._window.take_unused()
            self._end_window()
            self._window.micro_batches, self._window.nodes = rest, nodes

    def _on_loss_backward(
        self, batch: MicroBatch, upstream: Sequence[Tensor | None], missing: float = math.nan
    ) -> None:
        """A backward of the loop comes to this loss, with a gradient, or with that which stands for a missing one."""
        opened, weight = self._open, number_of(upstream, missing)
        if opened is None or math.isnan(weight):
            return
        if batch is opened.root:
            opened.factor = weight
        elif self.trace.loss_declared:
            opened.reached.append((batch, weight / self._samples.scale()))
        else:
            # A term of what backward was called on.
            if opened.root is not None and not batch.scale_free:
                opened.root.term_weights = (*opened.root.term_weights, weight / self._samples.scale())
            self._window.drop(batch)

    def on_backward_error(self) -> None:
        """The backward has failed, as for want of memory: it says nothing of its loss."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.close(self._samples.scale())
            if opened.root is not None and not opened.root.backwards:
                self._window.drop(opened.root)

    def on_backward_end(self) -> None:
        """The backward has returned."""
        opened, self._open = self._open, None
        if opened is None:
            return
        opened.close(self._samples.scale())
        growth = None if opened.before is None else opened.growth(self._samples.unscaled(), self._window.backwards)
        length = 0.0 if growth is None else length_of(growth)
        grown = growth is not None and (length != 0 or bool(growth.any()))
        reached = growth is None or grown or self._samples.missing() < opened.missing
        reached = reached or opened.adds_nothing(self._lines.trained, self._samples.optimised())
        for batch, _ in opened.reached:
            if grown:
                self._lines.use(batch.call_stack)
            if not reached or self._lines.is_detached(batch.call_stack):
                self._drop_detached(batch)
        if reached:
            opened.record.come_to(id(self) if growth is not None else 0)
            self._note_backward(opened, growth, math.isfinite(length))

    def _drop_detached(self, batch: MicroBatch) -> None:
        """A loss that depends on none of the weights."""
        self.trace.note_detached(batch.where)
        self._lines.drop(batch.call_stack)
        self._window.drop(batch)

    def _note_backward(self, opened: OpenBackward, growth: Tensor | None, finite: bool) -> None:
        """Give the losses that a backward came to their weights, and what it added to the gradients."""
        spare = growth is None or self._window.size + growth.nbytes <= _IN_A_WINDOW
        why = "" if spare else f"more than {_IN_A_WINDOW >> 20} MB of gradients in one window"
        opened.reached = [one for one in opened.reached if not self._lines.is_detached(one[0].call_stack)]
        self._window.size += opened.weigh_losses(growth, finite, why)
        self._lines.trained |= {batch.call_stack for batch, _ in opened.reached}

    def on_grad(self, sources: Sequence[Tensor]) -> None:
        """torch.autograd.grad() begins: the loop may put what it gives into .grad itself."""
        self._window.by_hand |= not self._samples.optimised().isdisjoint(map(id, sources))

    def on_clip(self, parameters: Sequence[Tensor], max_norm: float, foreign: bool) -> None:
        """clip_grad_norm_() begins, on `foreign` tensors if no optimiser holds any of them."""
        own = self._samples.optimised()
        count, late = sum(id(value) in own for value in parameters), not self._window.backwards
        self._window.clips.append(Clip(max_norm, count, len(parameters), foreign, late))

    def may_count(self) -> bool:
        """Whether the window that has begun need only be counted."""
        odd = self._samples.is_scaled() or self._lines.mixed or self.trace.failure or self._window.compared
        return not odd and self._stepped and self._storage.usual is not None

    def begin_counting(self, change: Callable[[], None], all_came: Callable[[], bool]) -> None:
        """Windows are like the last one from now on, until end_counting(); change() brings it about."""
        if self._storage.usual is not None:
            self.counter = StepCounter(self._storage.usual, self.trace, change, all_came, self._forward.samples)

    def end_counting(self, clips: int) -> None:
        """The open window, in which so many calls of clip_grad_norm_() came, is recorded."""
        counter, self.counter = self.counter, None
        if counter is not None:
            self._forward.samples, self._forward.with_gradient = counter.samples, True
            if counter.resume(self._window, clips):
                self._end_at_step(at=counter.like.where)

    # Steps.

    @property
    def _stepped(self) -> bool:
        """Whether a hook has reported a step."""
        return self._evaluations >= 0 or (bool(self.trace.steps) and not self.trace.last_inferred)

    def _note_skipped_step(self) -> None:
        """Record a step that a scaler left out: it has lowered its scale since."""
        if self._samples.scaler is None:
            return
        scale = self._samples.scale()
        if scale < self._scale and any(batch.backwards for batch in self._window.micro_batches):
            self._end_window()
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
            self._end_window(last, applied=True, finite=True, inferred=True)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """A step begins; one with a closure is handed a closure that reports each evaluation."""
        if self.trace.failure or is_dynamo_compiling() or self._forward.enters_step(optimizer):
            return None
        if self._open is None and self._thread not in (None, threading.get_ident()):
            self.trace.failure = "steps in another thread than the backwards that were observed"
        report = partial(unobserved, False, self.notify, StepRecorder._end_at_step)
        reporting = reporting_closures(args, kwargs, report) if len(args) + len(kwargs) > 1 else None
        counted = self.counter is not None and self.counter.may_step(reporting is not None)
        self._evaluations = -1 if counted and reporting is None else 0
        if reporting is None and not counted:
            report()
        return reporting

    def _end_at_step(self, given: Any = None, at: str = "") -> None:
        """The optimiser has the gradients of a window; a closure has given it a loss as well."""
        if self.counter is not None and self.counter.note_evaluation():
            return
        self.trace.note_closure(self._evaluations, given, self._window.micro_batches)
        if self._open is not None:
            # An optimiser that steps in a hook of the backward itself.
            self.on_backward_end()
        factor, skipped = fused_scaling(self._samples.optimizer)
        gradient, norms = None, Norms()
        if self._window.compared:
            gradient = self._samples.gradients()
            norms = self._samples.norms(gradient, factor)
            gradient = gradient if factor == 1 else gradient / factor
            self._changes.at_step()
        finite = gradient is None or math.isfinite(norms.total)
        self.trace.idle += not (self._window.micro_batches or self._evaluations or self._samples.present())
        where, stack = (at, ()) if at else caller()
        self.trace.by_library |= by_library(stack)
        self._end_window(gradient, norms, applied=not skipped, finite=finite, where=where)
        self._scale = self._samples.scale()
        self._evaluations = max(0, self._evaluations) + 1

    def _after_step(self, *_: Any) -> None:
        if is_dynamo_compiling() or self._forward.leaves_step():
            return
        if self.counter is not None and self.counter.ends_window(self._evaluations == 0):
            self._evaluations, rate = -1, max(self._samples.rates(), default=None)
            self._storage.count(rate, self._ticks.count(), self.counter.end_window())
            if self._sampling.wanted():  # else the open window stays as it was
                self._window.compared = True
                self._samples.lay_out()
                self.counter.change()
            return
        if self._evaluations == 0:  # a closure that was not called
            self._end_at_step()
        elif self._evaluations < 0 and not self.trace.step_count:
            # A step that began before the recording.
            self._window.partial = True
            self._end_window()
        self._evaluations = -1
        self.trace.stateful |= bool(self._samples.optimizer.state)

    def _end_window(
        self,
        gradient: Tensor | None = None,
        norms: Norms | None = None,
        *,
        applied: bool = False,
        finite: bool = False,
        where: str = "",
        inferred: bool = False,
    ) -> None:
        if self._window.partial or (self._window.unobserved(self.trace) and self._samples.present()):
            self.trace.missed, self.trace.taken_count = 1, self.trace.taken_count + applied
            self._open_window()
            return
        self._lines.trained |= self._window.by_hand_lines()
        # A step that was not seen itself has the gradient of the last backward, and no norm yet.
        norms = norms or Norms(math.nan if gradient is None else float(gradient.norm()))
        step = Step(
            micro_batches=self._window.micro_batches,
            backwards=self._window.stepped_on(),
            clips=self._window.clips,
            gradient=gradient,
            norm=norms.total,
            length=norms.read,
            applied=applied,
            scale=self._scale,
            finite=finite,
            rates=self._samples.rates(),
            ticks=self._ticks.count(),
            where=where,
            other_norm=norms.others,
            evaluation=max(0, self._evaluations),
            inferred=inferred,
            ahead=self._window.ahead,
        )
        self._storage.enter(step, self._lines.trained, self._window.size)
        self._sampling.note_step(step)
        self._open_window()

    def _open_window(self) -> None:
        self._window = OpenWindow(compared=self._sampling.wanted())
        if self._window.compared or not self._stepped:
            self._samples.lay_out(self._sampling.anew)
        if not self._stepped and isinstance(self._samples.optimizer, ForeignOptimizer):
            self._window.values = self._samples.values()
