"""Watches every optimiser of the process, in code that nobody touched.

Global hooks of torch report forwards and steps, and a torch function mode losses and backwards. Optimisers, with their
schedulers and gradient scalers, are looked up among the objects that Python's collector knows.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import process_time
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from rislab.checkup.diagnosis import OF_FIRST_BACKWARDS, diagnose, standard_observers, with_others
from rislab.checkup.findings import OF_THE_END, UNJUDGED, Finding, Findings, as_note
from rislab.checkup.observers.hand_updates import HandUpdates
from rislab.checkup.observers.rank_differences import RankMarks, RankObserver
from rislab.checkup.observers.resumes import LostState
from rislab.checkup.observers.unregistered import UnregisteredTensors
from rislab.checkup.recording.event_source import EventSource
from rislab.checkup.recording.events import Roots
from rislab.checkup.recording.gradient_samples import GradientSamples
from rislab.checkup.recording.interception import LOSSES
from rislab.checkup.recording.living_objects import living_objects, living_optimizers
from rislab.checkup.recording.optimizers import ForeignOptimizer, MovedNetworks, has_numbers_to_step, tensors_held
from rislab.checkup.recording.recorder import StepRecorder
from rislab.checkup.recording.tracking import (
    LoopObserver,
    OverOptimizers,
    TrackedOptimizer,
    holds_one_of,
    named_tensors,
    outermost_modules,
    outermost_scheduler,
    unwrapped,
)
from rislab.checkup.recording.windows import Declared
from rislab.checkup.rules import Code
from rislab.checkup.several_loops import (
    declared_of,
    has_recorded_steps,
    schedule_goes_on,
    scheduler_of_another,
    stale_parameters,
    without_repetitions,
)
from rislab.errors import error_text

# New networks beyond this many are not looked into: a loop that makes one in each step would pay for each.
MODELS = 64
# The most optimisers that are watched at once, and looks at all objects; later ones are at what was made lately.
OPTIMIZERS, LOOKS = 16, 16
# So many backwards without a step are no window any more that was broken off.
MANY = 100


class StopWatching(BaseException):
    """Raised in the watched code when it has taken as many steps as were asked for."""


class ProcessWatch(LoopObserver):
    """Watches the code of a `with` block: `with ProcessWatch(steps=100) as watch: run(); watch.findings()`.

    Args:
        steps: StopWatching is raised after so many of one optimiser; None never.
        patience: and not before so many seconds of the processor.
        every: compare each n-th window; None the first ones, then ever fewer, and again after a change.
        declared: what the loops are meant to do; None if nothing is declared.
        known: optimisers and gradient scalers that were made before and are watched from the first window on; others
            that were made before are of no concern until they step.
    """

    def __init__(
        self,
        steps: int | None = None,
        *,
        patience: float = 0.0,
        every: int | None = None,
        declared: Declared | None = None,
        known: Iterable[object] = (),
    ) -> None:
        super().__init__()
        self._known = set(map(id, known))
        self.backwards, self.evaluated = 0, False  # and whether a network was run without gradients
        self._limits, self._every = (steps, process_time() + patience), every
        self._over = OverOptimizers()
        self._declared = declared or Declared(mean="")
        self._observers = standard_observers()
        self._source = EventSource([self, *self._observers], LOSSES)
        self._limit: RemovableHandle | None = None
        self._earlier: list[Any] = []  # what was there before, of no concern unless it steps
        self._adopted: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._scalers: list[GradScaler] = []
        self._models: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
        self._networks = MovedNetworks()

    @property
    def steps(self) -> int:
        """Steps taken, by all optimisers."""
        return self._over.steps + sum(tracked.recorder.trace.taken_count for tracked in self.tracked)

    def labels(self) -> list[str]:
        """Of all optimisers, in words."""
        return [*self._over.labels, *(tracked.label() for tracked in self.tracked)]

    def __enter__(self) -> ProcessWatch:
        self._source.__enter__()
        self._limit = register_optimizer_step_post_hook(self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._limit is not None:
            self._limit.remove()
        self._source.close(error)
        self._earlier = []

    def _stop(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        (limit, until), own = self._limits, os.getpid() == self._source.process
        due = own and limit is not None and process_time() >= until
        if due and any(one.recorder.trace.taken_count >= (limit or 0) for one in self.tracked):
            for one in self.tracked:
                one.recorder.trace.stopped = True
            raise StopWatching

    def findings(self) -> Findings:
        """What is wrong with the loops, faults first; each says of which optimiser, where there are several."""
        findings = self._over.findings + self._findings_of(self.tracked)
        if not self.steps and not findings:
            by_hand = as_note(Code.STEPS, "updated by hand", f"{self.backwards} backwards, and no optimiser stepped")
            unmoved = next((one.finding() for one in self._observers if isinstance(one, HandUpdates)), None)
            findings += [unmoved or by_hand] if unmoved or self.backwards else []
        if self._over.unobserved:
            text = "an optimiser has gradients, and no backward was observed: it was compiled with its step, or ran"
            findings.append(as_note(Code.LOSSES, UNJUDGED, f"{text} out of sight"))
        for lost in (one for one in self._observers if isinstance(one, LostState)):
            for tracked in self.tracked:
                lost.note_schedule(
                    tracked.optimizer, tracked.recorder.trace.schedule, tracked.recorder.trace.ticks or 0
                )
        findings = with_others(findings, self._observers)
        return Findings(without_repetitions([*findings, *self._source.unjudged()]))

    def _findings_of(self, those: list[TrackedOptimizer]) -> list[Finding]:
        findings: list[Finding] = []
        missed = [name for one in self._observers if isinstance(one, UnregisteredTensors) for name in one.missed]
        stepping = {id(value) for tracked in self.tracked if has_recorded_steps(tracked) for value in tracked.tensors()}
        for tracked in those:
            trace = tracked.recorder.trace
            if tracked.optimizer in self._over.optimizers and tracked in self.tracked:
                continue  # it came back to a loop of which a part was not recorded
            replaced = all(id(value) in stepping for value in tracked.tensors())
            if not trace.failure and not trace.steps and (replaced or not any(batch.backwards for batch in trace.left)):
                continue
            enabled = None if tracked.scaler is None else bool(tracked.scaler.is_enabled())
            declared = declared_of(tracked, self.tracked, self._declared.accumulation_steps or 1)
            declared = replace(declared, scaler=enabled, scheduler=tracked.scheduler is not None)
            which = f" ({tracked.label()})" if len(self.tracked) + len(self._over.labels) > 1 else ""
            own = stale_parameters(tracked, missed) or diagnose(trace, declared)
            if schedule_goes_on(tracked, self.tracked):
                own = Findings(one for one in own if one.name != "schedule hardly begins")
            if len(self.tracked) + len(self._over.labels) > 1:
                # Of two networks, one may be the adversary of the other.
                own = Findings(one for one in own if one.name != "loss is maximised")
            own += scheduler_of_another(tracked, self.tracked)
            findings += [replace(finding, evidence=finding.evidence + which) for finding in own]
        return findings

    def _let_go(self) -> None:
        """Of many, watch those no more that have not stepped for longest; one that came back may do so again."""
        some = [one for one in self.tracked if one.turns and one.optimizer not in self._over.optimizers]
        for tracked in sorted(some, key=lambda one: one.turns[-1])[: max(0, len(self.tracked) - OPTIMIZERS)]:
            tracked.end()
            own = [one for one in self._findings_of([tracked]) if one.name not in OF_THE_END]
            self._over.findings = without_repetitions([*self._over.findings, *own])
            self._over.steps += tracked.recorder.trace.taken_count
            self._over.labels[tracked.label()] = None
            self._over.optimizers.add(tracked.optimizer)
            self.tracked.remove(tracked)

    def last_findings(self, error: BaseException | None = None, *, failed: bool, crashed: bool) -> Findings:
        """End the watch; what is wrong with its run, also with one that was broken off, or with the checkup itself.

        Args:
            error: that ended the run, None if none did.
            failed: whether the run was broken off, from inside or outside.
            crashed: whether an exception ended it.
        """
        try:
            self.__exit__(None if error is None else type(error), error, None)
            if not self.steps and (crashed or (failed and self.backwards < MANY)):
                return Findings()
            results = self.findings()
        # Whatever goes wrong here is no error of the script's.
        except Exception as own:
            text = f"the checkup itself failed: {type(own).__name__}: {error_text(own)}"
            return Findings([as_note(Code.LOSSES, UNJUDGED, text)])
        return Findings(
            finding
            for finding in results
            if not (failed and self.steps and finding.name in OF_THE_END)
            and not (crashed and finding.code == Code.WEIGHTS.value)
        )

    def rank_marks(self) -> RankMarks | None:
        """What this process leaves of a distributed training; None outside of one."""
        return next((one.marks() for one in self._observers if isinstance(one, RankObserver)), None)

    # What happens in the watched code.

    def begin(self) -> None:
        """Remember what is there already."""
        self._earlier = [one for one in living_objects((Optimizer, GradScaler)) if id(one) not in self._known]

    def end(self, error: BaseException | None) -> None:
        """The watching ends."""
        if not self.tracked and not self.backwards:
            new = [one for one in living_optimizers() if all(one is not other for other in self._earlier)]
            self._over.unobserved = any(value.grad is not None for one in new for value in tensors_held(one))
        super().end(error)

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """A network that is new may have brought an optimiser."""
        self.evaluated |= not torch.is_grad_enabled()
        if self._is_new_network(module):
            self._models[id(module)] = module
            self._look_around()
        if id(module) in self._models and not any(tracked.trains(module) for tracked in self.tracked):
            self._look_at_foreign(module)
        super().on_forward(module, training)

    def _is_new_network(self, module: nn.Module) -> bool:
        new = id(module) not in self._models and len(self._models) < MODELS
        return new and next(nn.Module.parameters(module), None) is not None

    def _look_at_foreign(self, module: nn.Module) -> None:
        """Track a network that something moves which is no optimiser of torch."""
        if torch.is_grad_enabled() and self._networks.moved(module, [one.roots for one in self.tracked]):
            tensors = [value for value in nn.Module.parameters(module) if value.requires_grad]
            self.track(ForeignOptimizer(tensors), None, None, [module])

    def on_backward(self, roots: Roots) -> None:
        """A backward in which no optimiser is known may follow the making of one."""
        self.backwards += 1
        # Ever more rarely: each look goes through all objects, and a loop without an optimiser has none to find.
        if not self.tracked and self.backwards & (self.backwards - 1) == 0:
            self._look_around()
        super().on_backward(roots)

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """With a closure, the first forward comes within the first step; an optimiser may be made for each step."""
        if self._is_new(optimizer) and not self._replaces(optimizer) and closure:
            self._look_around(optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """The first window of an optimiser that is new has passed unrecorded."""
        if self._is_new(optimizer):
            self._look_around(optimizer)
            for tracked in self.tracked:
                tracked.recorder.trace.missed |= tracked.optimizer is optimizer
        turn = 1 + max((tracked.turns[-1] for tracked in self.tracked if tracked.turns), default=0)
        for tracked in self.tracked:
            if tracked.optimizer is optimizer:
                tracked.turns = (*tracked.turns[:1], turn)
                if tracked.recorder.trace.remade:
                    tracked.remember()

    def _replaces(self, optimizer: Optimizer) -> bool:
        """Whether an optimiser has taken over the tensors of another one."""
        own = set(map(id, tensors_held(optimizer)))
        for tracked in self.tracked:
            if own == set(map(id, tracked.tensors())):
                # Two that take turns are none that is made again and again.
                anew = type(optimizer) is type(tracked.optimizer) and optimizer not in self._adopted
                self._adopted.update((optimizer, tracked.optimizer))
                tracked.adopt(optimizer, anew)
                return True
        return False

    def _is_new(self, optimizer: Optimizer) -> bool:
        return all(tracked.optimizer is not optimizer for tracked in self.tracked)

    # Optimisers and what belongs to them.

    def _look_around(self, stepping: Optimizer | None = None) -> None:
        """Track optimisers that are new, or stepping, with all that belongs to them."""
        self._over.looks += 1
        young = self._over.looks > LOOKS
        objects = living_objects((Optimizer, GradScaler, LRScheduler, nn.Module), young)
        if young:
            objects = [*{id(o): o for o in (*objects, stepping, *self._models.values()) if o is not None}.values()]
        known = [tracked.optimizer for tracked in self.tracked]
        known += [one for one in (*self._earlier, *self._over.optimizers) if one is not stepping]
        new = [
            one
            for one in _of_kind(objects, Optimizer)
            # Before its __init__ is over, an optimiser has no groups; a wrapper steps what it holds.
            if all(one is not other for other in known)
            and "param_groups" in vars(one)
            and unwrapped(one, "optimizer") is one
            and has_numbers_to_step(one)
        ]
        modules = _of_kind(objects, nn.Module) if new else []
        scalers = [*self._earlier, *self._scalers]
        made = [one for one in _of_kind(objects, GradScaler) if vars(one)]
        self._scalers += [one for one in made if all(one is not other for other in scalers)]
        # A later optimiser, as that of the next fold, brings a scaler of its own, or shares the last.
        scaler = self._scalers[-1] if self._scalers else None
        for optimizer in new:
            schedulers = [one for one in _of_kind(objects, LRScheduler) if vars(one).get("optimizer") is optimizer]
            self.track(optimizer, scaler, outermost_scheduler(schedulers), modules, _accelerated(optimizer, objects))
        if new:
            for tracked in self.tracked:
                tracked.forget_networks()

    def track(
        self, optimizer: Any, scaler: Any, scheduler: Any, modules: list[nn.Module], size: int | None = None
    ) -> None:
        """Track an optimiser from now on.

        Args:
            optimizer: wrapped ones are looked into.
            scaler: gradient scaler of its loop, or None.
            scheduler: of the optimiser, or None.
            modules: among which its networks are.
            size: K to which the Accelerator of the optimiser is set, > 1; None without one.
        """
        optimizer, scheduler = unwrapped(optimizer, "optimizer"), unwrapped(scheduler, "scheduler")
        if self._replaces(optimizer):
            return
        own = {id(value) for value in tensors_held(optimizer)}
        self._observers += self._source.begin_anew(OF_FIRST_BACKWARDS)
        roots = outermost_modules([module for module in modules if holds_one_of(module, own)])
        names = self._names(optimizer, roots)
        declared = replace(self._declared, scaler=None, scheduler=scheduler is not None)
        if size is not None:
            declared = replace(declared, accumulation_steps=declared.accumulation_steps or size, divides="accelerate")
        samples = GradientSamples(names, optimizer, scaler, self._all_tensors)
        recorder = StepRecorder(samples, scheduler, declared, self._every)
        recorder.trace.loss_declared = False
        recorder.begin()
        self._let_go()
        self.tracked.append(TrackedOptimizer(optimizer, scaler, scheduler, roots, recorder, declared))

    def _all_tensors(self) -> list[Tensor]:
        """The tensors of all optimisers, none while several threads train."""
        tracked = self.tracked if self._source.one_thread_trains else []
        return [value for one in tracked for value in one.tensors()]

    def _names(self, optimizer: Optimizer, roots: list[nn.Module]) -> Callable[[], list[tuple[str, Tensor]]]:
        """The tensors of an optimiser's networks that no other optimiser holds, and the loose ones of its own."""

        def names() -> list[tuple[str, Tensor]]:
            own = {id(value) for value in tensors_held(optimizer)}
            if not roots:
                unique = {id(value): value for value in tensors_held(optimizer)}
                return [(f"tensor {place}", value) for place, value in enumerate(unique.values())]
            others = {id(v) for other in self.tracked if other.optimizer is not optimizer for v in other.tensors()}
            named: dict[int, tuple[str, Tensor]] = {}
            for name, value in named_tensors(roots):
                if id(value) in own or id(value) not in others:
                    named.setdefault(id(value), (name, value))
            return list(named.values())

        return names


def _of_kind(objects: list[Any], kind: type) -> list[Any]:
    return [one for one in objects if issubclass(type(one), kind)]


def _accelerated(optimizer: Optimizer, objects: list[Any]) -> int | None:
    """K of accelerate's Accelerator that has prepared an optimiser; None if none has, or if it is 1."""
    for one in _of_kind(objects, Optimizer):
        state = vars(one).get("gradient_state")
        if state is not None and unwrapped(one, "optimizer") is optimizer and state.num_steps > 1:
            return int(state.num_steps)
    return None
