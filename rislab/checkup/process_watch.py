"""A bystander watches every optimiser of the process, in code that nobody touched.

Global hooks of torch tell of forwards and steps, and a torch function mode of losses and backwards. Optimisers, with
their schedulers and gradient scalers, are found among the objects that Python's collector knows.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, SequentialLR
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from rislab.checkup.findings import Finding, Findings, fault, listed, note
from rislab.checkup.gradient_rules import Declared
from rislab.checkup.interception import LOSSES, LossInterceptor, parts
from rislab.checkup.loop_watch import diagnose, inner
from rislab.checkup.recorder import Recorder
from rislab.checkup.rules import Code

# New networks beyond this many are not looked into: a loop that makes one in each step would pay for each.
MET = 64


class StopWatching(BaseException):
    """Raised in the watched code when it has taken as many steps as were asked for."""


@dataclass(eq=False)
class TrackedOptimizer:
    """An optimiser, its witness, and the networks that it trains.

    Args:
        optimizer, scaler, scheduler: as found. roots: networks that hold its tensors. witness: of it.
    """

    optimizer: Optimizer
    scaler: Any
    scheduler: Any
    roots: list[nn.Module]
    witness: Recorder

    def label(self) -> str:
        """Kind of the optimiser, and of its networks."""
        names = [type(root).__name__ for root in self.roots] or ["loose tensors"]
        return f"{type(self.optimizer).__name__} over {listed(names)}"


class ProcessWatch:
    """Watches the code of a `with` block: `with ProcessWatch(steps=100) as seen: run(); seen.findings()`.

    Args:
        steps: StopWatching is raised after so many of one optimiser; None never. every: take gradients of each n-th window.
        declared: what the loops are meant to do, as far as anybody said.
    """

    def __init__(self, steps: int | None = None, *, every: int = 1, declared: Declared | None = None) -> None:
        self.parties: list[TrackedOptimizer] = []
        self.backwards = 0
        self._steps, self._every = steps, every
        self._declared = declared or Declared(mean="")
        self._process = os.getpid()
        self._handles: list[RemovableHandle] = []
        self._listener: LossInterceptor | None = None
        self._depth = 0
        self._earlier: list[Any] = []  # what is of no concern unless it steps
        self._scalers: list[GradScaler] = []
        self._met: dict[int, nn.Module] = {}
        self._concerned: dict[int, list[TrackedOptimizer]] = {}

    @property
    def steps(self) -> int:
        """Steps taken, by all optimisers."""
        return sum(len(party.witness.seen.steps) for party in self.parties)

    def __enter__(self) -> ProcessWatch:
        self._earlier = _of_kind(gc.get_objects(), (Optimizer, GradScaler))
        self._handles = [
            register_module_forward_pre_hook(self._forward_begins),
            register_module_forward_hook(self._forward_ends, always_call=True),
            register_optimizer_step_pre_hook(self._steps_with_closure),
            register_optimizer_step_post_hook(self._stepped),
        ]
        self._listener = LossInterceptor(LOSSES, self._hear, self._backward_begins, self._backward_ends)
        self._listener.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.__exit__(kind, error, trace)
        for handle in self._handles:
            handle.remove()
        for party in self.parties:
            party.witness.end()
        self._earlier = []

    def findings(self) -> Findings:
        """What is wrong with the loops, faults first; each says of which optimiser, where there are several."""
        found: list[Finding] = []
        stepping = {id(value) for party in self._active() for value in _tensors(party.optimizer)}
        for place, party in enumerate(self.parties, start=1):
            seen = party.witness.seen
            others = all(id(value) in stepping for value in _tensors(party.optimizer))
            if not seen.steps and (others or not any(batch.backwards for batch in seen.left)):
                continue
            enabled = None if party.scaler is None else bool(party.scaler.is_enabled())
            contract = replace(self._declared, scaler=enabled, scheduler=party.scheduler is not None)
            said = self._stale(party) or diagnose(seen, contract)
            which = f" ({party.label()}, {place} of {len(self.parties)})" if len(self.parties) > 1 else ""
            found += [replace(one, evidence=one.evidence + which) for one in said]
        if self.backwards and not self.steps and not found:
            found.append(note(Code.STEPS, "updated by hand", f"{self.backwards} backwards, and no optimiser stepped"))
        return Findings(dict.fromkeys(found))

    def _active(self) -> Iterator[TrackedOptimizer]:
        return (party for party in self.parties if party.witness.seen.steps)

    def _stale(self, party: TrackedOptimizer) -> list[Finding]:
        """The fault of an optimiser that no loss depends on, where a network is trained that no optimiser holds."""
        seen = party.witness.seen
        if seen.micro_batches or not seen.strays:
            return []
        held = set(map(id, self._all()))
        free = [
            f"{type(module).__name__}.{name}"
            for module in self._met.values()
            for name, value in module.named_parameters()
            if value.requires_grad and id(value) not in held and value.grad is not None
        ]
        if not free:
            return []
        text = f"{len(free)} trainable tensors got a gradient and are in no optimiser: {listed(free)}"
        return [fault(Code.WEIGHTS, "optimiser holds stale parameters", f"{text}; {len(seen.steps)} steps on others")]

    # What happens in the watched code.

    def _forward_begins(self, module: nn.Module, inputs: Any) -> None:
        self._depth += 1
        if self._depth > 1 or self._elsewhere():
            return
        if id(module) not in self._met and len(self._met) < MET and next(module.parameters(), None) is not None:
            self._met[id(module)] = module
            self._look_around()
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        for party in self._concerned.get(id(module), []):
            party.witness.forward_begins(given, module.training)

    def _forward_ends(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth == 0 and not self._elsewhere():
            for party in self._concerned.get(id(module), []):
                party.witness.forward_ends(output)

    def _hear(self, function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        if self._elsewhere() or not isinstance(output, Tensor) or output.numel() != 1:
            return
        count, free = parts(function, args, named)
        for party in self.parties:
            party.witness.hear(output, count, free, judge=False)

    def _backward_begins(self, root: Tensor, upstream: Tensor | None) -> None:
        if self._elsewhere():
            return
        self.backwards += 1
        # Ever more rarely: each look goes through all objects, and a loop without an optimiser has none to find.
        if not self.parties and self.backwards & (self.backwards - 1) == 0:
            self._look_around()
        for party in self.parties:
            party.witness.root_begins(root, upstream)

    def _backward_ends(self) -> None:
        for party in self.parties:
            party.witness.root_ends()

    def _steps_with_closure(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Its first forward comes within its first step.
        if not self._elsewhere() and any(map(callable, (*args[1:], *kwargs.values()))) and self._unknown(optimizer):
            self._look_around(optimizer)

    def _unknown(self, optimizer: Optimizer) -> bool:
        return all(party.optimizer is not optimizer for party in self.parties)

    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._elsewhere():
            return
        if self._unknown(optimizer):
            # Its first window has passed unseen.
            self._look_around(optimizer)
        if self._steps is not None and any(len(one.witness.seen.steps) >= self._steps for one in self.parties):
            raise StopWatching

    def _elsewhere(self) -> bool:
        """Whether this is a fork of the watched process."""
        return os.getpid() != self._process

    # Who is there.

    def _look_around(self, stepping: Optimizer | None = None) -> None:
        """Find optimisers that are new, or stepping, with all that belongs to them."""
        objects = gc.get_objects()
        known = [*(party.optimizer for party in self.parties), *(one for one in self._earlier if one is not stepping)]
        optimizers = [
            one
            for one in _of_kind(objects, Optimizer)
            # Before its __init__ is over, an optimiser has no groups; a wrapper steps what it holds.
            if all(one is not other for other in known)
            and "param_groups" in vars(one)
            and inner(one, "optimizer") is one
        ]
        modules = _of_kind(objects, nn.Module) if optimizers else []
        met = [*self._earlier, *self._scalers]
        self._scalers += [one for one in _of_kind(objects, GradScaler) if all(one is not other for other in met)]
        # A later optimiser, as that of the next fold, brings a scaler of its own, or shares the last.
        scaler = self._scalers[-1] if self._scalers else None
        for optimizer in optimizers:
            own = {id(value) for value in _tensors(optimizer)}
            roots = _roots([module for module in modules if _shares(module, own)])
            scheduler = _scheduler([one for one in _of_kind(objects, LRScheduler) if one.optimizer is optimizer])
            party = TrackedOptimizer(
                optimizer, scaler, scheduler, roots, Recorder(list, optimizer, None, None, self._every)
            )
            party.witness = Recorder(self._names(party), optimizer, scaler, scheduler, self._every, self._all)
            party.witness.seen.heard = False
            party.witness.begin()
            self.parties.append(party)
        for place, module in self._met.items():
            held = {id(value) for value in module.parameters()}
            self._concerned[place] = [
                party for party in self.parties if any(id(value) in held for value in _tensors(party.optimizer))
            ]

    def _all(self) -> list[Tensor]:
        """The tensors of all optimisers."""
        return [value for party in self.parties for value in _tensors(party.optimizer)]

    def _names(self, party: TrackedOptimizer) -> Callable[[], list[tuple[str, Tensor]]]:
        """The tensors of a party's networks that no other optimiser holds, and the loose ones of its own."""

        def names() -> list[tuple[str, Tensor]]:
            others = {id(v) for one in self.parties if one is not party for v in _tensors(one.optimizer)}
            own = {id(value) for value in _tensors(party.optimizer)}
            found: dict[int, tuple[str, Tensor]] = {}
            for root in party.roots:
                for name, value in root.named_parameters():
                    if id(value) in own or id(value) not in others:
                        found.setdefault(id(value), (name, value))
            if not party.roots:
                found = {id(one): (f"tensor {place}", one) for place, one in enumerate(_tensors(party.optimizer))}
            return list(found.values())

        return names


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    return [value for group in optimizer.param_groups for value in group["params"]]


def _of_kind(objects: list[Any], kind: type | tuple[type, ...]) -> list[Any]:
    """Objects of some classes, asked by their type alone: some answer to isinstance() with code of their own."""
    return [one for one in objects if issubclass(type(one), kind)]


def _shares(module: nn.Module, own: set[int]) -> bool:
    try:
        return any(id(value) in own for value in module.parameters())
    except (AttributeError, RuntimeError):  # a module whose __init__ is not over, or that is lazy
        return False


def _roots(modules: list[nn.Module]) -> list[nn.Module]:
    """Modules that are no part of another one."""
    inside = {id(part) for module in modules for part in module.modules() if part is not module}
    return [module for module in modules if id(module) not in inside]


def _scheduler(found: list[Any]) -> Any:
    """The scheduler of an optimiser; where one is made of others, the whole."""
    whole = [one for one in found if isinstance(one, SequentialLR | ChainedScheduler)]
    return next(iter(whole or found), None)
