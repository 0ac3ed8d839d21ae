"""Optimisers under observation, each with its recorder and the networks that it trains."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, SequentialLR
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, listed
from rislab.checkup.recording.averaged_losses import count_averaged
from rislab.checkup.recording.events import MANY, ForwardEvent, LossEvent, Observer, Roots
from rislab.checkup.recording.optimizers import ForeignOptimizer, inner_optimizer, tensors_held
from rislab.checkup.recording.recorder import StepRecorder
from rislab.checkup.recording.tensors import few_coordinates, is_readable
from rislab.checkup.recording.trace import Trace
from rislab.checkup.recording.weight_changes import follows
from rislab.checkup.recording.windows import Declared
from rislab.errors import one_line

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# So many modules are remembered.
MODULES = 1024
# Tensors by which it is told whether weights were set between two steps.
REMEMBERED = 4
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(eq=False)
class TrackedOptimizer:
    """An optimiser, its recorder, and the networks that it trains."""

    optimizer: Optimizer  # of the loop
    scaler: Any  # gradient scaler, None without one
    scheduler: Any  # of the optimiser, None without one
    roots: list[nn.Module]  # networks that hold its tensors and are no part of another
    recorder: StepRecorder  # of its steps
    declared: Declared  # what its loop is meant to do
    ticks_before: int | None = None  # of the scheduler, when another optimiser took over the tensors; None if none did
    # The first and the last of its steps, as numbered over all optimisers; empty without one.
    turns: tuple[int, ...] = ()
    # Some of its tensors, each with a few of its numbers after the last step; empty if they were not read.
    left: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _trains: dict[int, tuple[weakref.ReferenceType[nn.Module], bool, bool]] = field(default_factory=dict)

    def label(self) -> str:
        """Kind of the optimiser, of its networks, and its first tensors."""
        networks = [type(root).__name__ for root in self.roots] or ["loose tensors"]
        names = self.names()
        label = f"{type(self.optimizer).__name__} over {listed(networks)}" + (f": {listed(names, 2)}" if names else "")
        return one_line(label)

    def names(self) -> list[str]:
        """Names of its tensors in its networks."""
        own = set(map(id, self.tensors()))
        return [name for name, value in named_tensors(self.roots) if id(value) in own]

    def tensors(self) -> list[Tensor]:
        """All that the optimiser holds."""
        return tensors_held(self.optimizer)

    def trains(self, module: nn.Module) -> bool:
        """Whether a module holds tensors of the optimiser, or those of its networks."""
        return self._known(module)[1]

    def steps_on(self, module: nn.Module) -> bool:
        """Whether a module holds tensors of the optimiser."""
        return self._known(module)[2]

    def _known(self, module: nn.Module) -> tuple[weakref.ReferenceType[nn.Module], bool, bool]:
        known = self._trains.get(id(module))
        if known is None or known[0]() is not module:
            held = {id(value) for root in self.roots for value in nn.Module.parameters(root)}
            own, given = set(map(id, self.tensors())), {id(value) for value in nn.Module.parameters(module)}
            known = weakref.ref(module), not given.isdisjoint(own | held), not given.isdisjoint(own)
            self._trains[id(module)] = known
            # Modules that are made anew for each step are as many as there are steps.
            if len(self._trains) > MODULES:
                self._trains = {id(module): known}
        return known

    def forget_networks(self) -> None:
        """Tensors or networks have changed: ask anew which modules hold them."""
        self._trains.clear()

    def adopt(self, optimizer: Optimizer, anew: bool) -> None:
        """Another optimiser has taken over the tensors, made anew for them or not."""
        trace = self.recorder.trace
        self.ticks_before = (trace.steps[-1].ticks or 0) if trace.steps else 0
        trace.other_settings |= anew and optimizer.defaults != self.optimizer.defaults
        # Weights that were set since the last step, as those of a network that begins again, have another course.
        goes_on = all(torch.equal(few_coordinates(value), numbers) for value, numbers in self.left)
        self.optimizer, self.left = optimizer, []
        self.recorder.adopt(optimizer, anew and goes_on)

    def remember(self) -> None:
        """Keep a few numbers of the weights, as a step has left them."""
        some = itertools.islice((value for value in self.tensors() if is_readable(value)), REMEMBERED)
        self.left = [(value, few_coordinates(value)) for value in some]

    def of_one_storage(self) -> list[str]:
        """Names of its tensors that lie where another one of them does."""
        named = {id(value): name for name, value in named_tensors(self.roots)}
        places: dict[int, list[str]] = {}
        for one, value in {id(value): value for value in self.tensors()}.items():
            if value.numel() and is_readable(value):
                places.setdefault(value.data_ptr(), []).append(named.get(one, "one without a name"))
        return [name for names in places.values() if len(names) > 1 for name in names]

    def end(self, error: BaseException | None = None) -> None:
        """The recording ends.

        Args:
            error: that ended the loop, None if none did.
        """
        self.recorder.trace.mode_dependent = self.mode_dependent()
        self.recorder.trace.frozen_norms = self.has_frozen_norms()
        self.recorder.trace.of_one_storage = self.of_one_storage()
        self.recorder.end(error)

    def mode_dependent(self) -> bool:
        """Whether its networks compute something else in training mode than in evaluation mode."""
        return any(is_mode_dependent(module) for root in self.roots for module in root.modules())

    def has_frozen_norms(self) -> bool:
        """Whether its networks have BatchNorm layers, all of whose own weights are frozen."""
        norms = [module for root in self.roots for module in root.modules() if isinstance(module, NORMS)]
        return bool(norms) and not any(map(is_mode_dependent, norms))


@dataclass
class OverOptimizers:
    """Optimisers that are watched no more, as later ones have taken their turn: their networks may be freed.

    Args:
        steps: that they took.
        labels: of them, each once.
        findings: of their loops.
        looks: at all objects.
        optimizers: those that are still alive.
        unobserved: whether there were gradients in the end, and never a backward.
    """

    steps: int = 0
    labels: dict[str, None] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    looks: int = 0
    optimizers: weakref.WeakSet[Optimizer] = field(default_factory=weakref.WeakSet)
    unobserved: bool = False


class LoopObserver(Observer):
    """Passes events on to the recorders of the optimisers that they concern; of losses, calls of a given one alone."""

    def __init__(self, tracked: Sequence[TrackedOptimizer] = (), loss: Any = None) -> None:
        self.tracked, self._recorded_loss = list(tracked), loss

    def begin(self) -> None:
        """Record all optimisers that are known."""
        for tracked in self.tracked:
            tracked.recorder.begin()

    def on_forward(self, module: nn.Module, training: bool) -> None:
        for tracked in self._training(module):
            trace = tracked.recorder.trace
            if training and not trace.forwards:
                trace.batch_norms = sum(isinstance(part, NORMS) and part.training for part in module.modules())
            tracked.recorder.notify(StepRecorder.on_forward, training, tracked.steps_on(module))

    def on_forward_end(self, call: ForwardEvent) -> None:
        for tracked in self._training(call.module):
            tracked.recorder.notify(StepRecorder.on_forward_end, call)

    def _record(self, event: Callable[..., Any], *args: Any) -> None:
        for tracked in self.tracked:
            tracked.recorder.notify(event, *args)

    def _training(self, module: nn.Module) -> Iterable[TrackedOptimizer]:
        return [tracked for tracked in self.tracked if tracked.trains(module)]

    def on_loss(self, call: LossEvent) -> None:
        if self._recorded_loss is not None and call.function is not self._recorded_loss:
            return
        if isinstance(call.output, Tensor) and call.output.numel() == 1:
            self._record(StepRecorder.on_loss, call.output, *count_averaged(call.function, call.args, call.kwargs))

    def on_backward(self, roots: Roots) -> None:
        reached: set[int] = set()
        self._record(StepRecorder.on_backward, roots, reached)

    def on_backward_error(self) -> None:
        self._record(StepRecorder.on_backward_error)

    def on_backward_end(self) -> None:
        self._record(StepRecorder.on_backward_end)

    def on_grad(self, outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        self._record(StepRecorder.on_grad, sources)

    def on_clip(self, parameters: list[Tensor], max_norm: float) -> None:
        held = {id(value) for tracked in self.tracked for value in tracked.tensors()}
        foreign = not any(id(value) in held for value in parameters)
        self._record(StepRecorder.on_clip, parameters, max_norm, foreign)

    def may_count(self) -> int:
        """Only the windows of a single optimiser are counted, until one is to be compared."""
        recorders = [tracked.recorder for tracked in self.tracked]
        return MANY if len(recorders) == 1 and recorders[0].may_count() and not recorders[0].trace.remade else 0

    def begin_counting(self, change: Callable[[], None], all_came: Callable[[], bool], _: Any) -> None:
        self._record(StepRecorder.begin_counting, change, all_came)

    def end_counting(self, clips: int) -> None:
        self._record(StepRecorder.end_counting, clips)

    def count_forward(self, module: nn.Module, samples: int) -> bool:
        [tracked] = self.tracked
        if tracked.recorder.counter is not None and tracked.trains(module):
            tracked.recorder.counter.note_forward(samples)
        return True

    def count_backward(self, root: Tensor, value: float) -> bool:
        counter = self.tracked[0].recorder.counter
        return counter is not None and counter.note_backward(root, value)

    def end(self, error: BaseException | None) -> None:
        for tracked in self.tracked:
            tracked.end(error)
        stepping = [one for one in self.tracked if not isinstance(one.optimizer, ForeignOptimizer)]
        held = [value for one in stepping for value in one.tensors()]
        for tracked in self.tracked:
            # A network in half precision whose weights are copied from those that an optimiser steps on.
            if tracked not in stepping and held and all(follows(value, held) for value in tracked.tensors()):
                tracked.recorder.trace.bf16_tensors = 0
        _drop_losses_of_others([tracked.recorder.trace for tracked in self.tracked])


def _drop_losses_of_others(traces: list[Trace]) -> None:
    """Take away losses without a backward, if a backward of each loss of their line came to another optimiser's."""
    lines = [Counter(batch.call_stack for batch in trace.micro_batches) for trace in traces]
    used = [Counter(batch.call_stack for batch in trace.micro_batches if batch.backwards) for trace in traces]
    for place, trace in enumerate(traces):
        others = [counter for other, counter in enumerate(used) if other != place]
        mixed = {
            line
            for line, count in lines[place].items()
            if 0 < used[place][line] < count <= max((counter[line] for counter in others), default=0)
        }
        for window in (*(step.micro_batches for step in trace.steps), trace.left) if mixed else ():
            window[:] = [batch for batch in window if batch.backwards or batch.call_stack not in mixed]


def named_tensors(roots: Sequence[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """The weights of networks by name; of several, the kind of its network stands before each name.

    Args:
        roots: the networks.
    """
    kinds = [type(root).__name__ for root in roots]
    for place, root in enumerate(roots):
        kind = kinds[place]
        which = f"{kind}[{kinds[:place].count(kind)}]." if kinds.count(kind) > 1 else f"{kind}."
        for name, value in root.named_parameters():
            yield which * (len(roots) > 1) + name, value


def is_mode_dependent(module: nn.Module) -> bool:
    """Whether a module computes something else in training mode than in evaluation mode."""
    if isinstance(module, DROPOUTS):
        return module.p > 0
    return isinstance(module, NORMS) and any(value.requires_grad for value in nn.Module.parameters(module))


def unwrapped(wrapper: Any, name: str) -> Any:
    """What a wrapper of Fabric or accelerate holds as "optimizer" or "scheduler", itself if it holds nothing."""
    visited: set[int] = set()
    while id(wrapper) not in visited:
        visited.add(id(wrapper))
        held = inner_optimizer(wrapper) if name == "optimizer" and isinstance(wrapper, Optimizer) else None
        inner = getattr(wrapper, name, None) if held is None else held
        optimizer = name == "optimizer" and isinstance(inner, Optimizer)
        wrapper = inner if optimizer or hasattr(inner, "last_epoch") else wrapper
    return wrapper


def holds_one_of(module: nn.Module, own: set[int]) -> bool:
    """Whether a module holds one of some tensors, given by identity."""
    try:
        return any(id(value) in own for value in nn.Module.parameters(module))
    except (AttributeError, RuntimeError):  # a module whose __init__ is not over, or that is lazy
        return False


def outermost_modules(modules: list[nn.Module]) -> list[nn.Module]:
    """Modules that are no part of another one."""
    inside = {id(part) for module in modules for part in module.modules() if part is not module}
    return [module for module in modules if id(module) not in inside]


def outermost_scheduler(schedulers: list[Any]) -> Any:
    """The scheduler of an optimiser; the one that is made of the others, if there is one."""
    combined = [one for one in schedulers if isinstance(one, SequentialLR | ChainedScheduler)]
    return next(iter(combined or schedulers), None)
