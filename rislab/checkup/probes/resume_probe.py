"""Does a run that was saved and loaded go on as if nothing had been? Which part of its state is lost, if not?"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from rislab.checkup.findings import Finding, as_fault, as_note, listed
from rislab.checkup.probes.probe_target import ProbeTarget, save_and_load, state_bytes
from rislab.checkup.probes.seeds import one_seed
from rislab.checkup.rules import Code


@dataclass(frozen=True, eq=False)
class Resumable:
    """All that a run goes on with; None for what it has not."""

    model: nn.Module  # a copy
    optimizer: torch.optim.Optimizer  # of the copy
    scheduler: Any  # of that optimiser
    scaler: Any  # of the loss

    def parts(self) -> dict[str, Any]:
        """What there is, by name."""
        named = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}
        return {name: part for name, part in named.items() if part is not None}


def resumed_run(target: ProbeTarget) -> list[Finding]:
    """P7: two steps, saved, loaded and two steps more, against four steps on end."""
    code, name = Code.RESUME, "state outside of state_dict"
    full, again = (_four_steps(target) for _ in range(2))
    if not torch.equal(state_bytes(full), state_bytes(again)):
        text = "two equal runs differ: something draws numbers that no seed of torch governs"
        return [as_note(code, "not judged", text)]
    without = [part for part, own in _new(target).parts().items() if not hasattr(own, "state_dict")]
    if without:
        return [as_fault(code, name, f"{listed(without)} has no state_dict: nothing of it can be saved")]
    with one_seed(target.seed):
        half = _new(target)
        _go_on(target, half, range(2))
        random_state = torch.get_rng_state()
        resumed = _loaded(target, half, tuple(half.parts()))
        _go_on(target, resumed, range(2, 4))
    if torch.equal(state_bytes(full), state_bytes(resumed.model)):
        return []
    guilty = []
    for part in half.parts():
        with one_seed(target.seed):
            torch.set_rng_state(random_state)
            other = _loaded(target, half, (part,))
            _go_on(target, other, range(2, 4))
        if not torch.equal(state_bytes(full), state_bytes(other.model)):
            guilty.append(part)
    differs = [
        tensor
        for (tensor, one), two in zip(full.named_parameters(), resumed.model.parameters(), strict=True)
        if not torch.equal(one, two)
    ]
    text = f"after saving and loading, {len(differs) or 'no'} tensors go another way: {listed(differs)}"
    which = f"state is lost of: {listed(guilty)}" if guilty else "which part loses its state is not known"
    return [as_fault(code, name, f"{text}; {which}")]


def _new(target: ProbeTarget) -> Resumable:
    model, optimizer = target.pair()
    return Resumable(model, optimizer, target.scheduler_for(optimizer), target.scaler_copy())


def _go_on(target: ProbeTarget, run: Resumable, places: range) -> None:
    target.take_steps(run.model, run.optimizer, places, run.scheduler, run.scaler)


def _four_steps(target: ProbeTarget) -> nn.Module:
    with one_seed(target.seed):
        run = _new(target)
        _go_on(target, run, range(4))
    return run.model


def _loaded(target: ProbeTarget, run: Resumable, parts: tuple[str, ...]) -> Resumable:
    """A run that goes on with copies, some of whose parts come new from a file."""
    fresh = _new(target)
    for part in parts:
        fresh.parts()[part].load_state_dict(save_and_load(run.parts()[part].state_dict()))
    if len(parts) == len(run.parts()):
        return fresh
    # One memo, so that the copied optimiser holds the tensors of the copied model, and the schedule that optimiser.
    memo: dict[int, Any] = {}
    if "model" in parts:
        memo |= {id(a): b for a, b in zip(run.model.parameters(), fresh.model.parameters(), strict=True)}
        model = fresh.model
    else:
        model = copy.deepcopy(run.model, memo)
    if "optimizer" in parts:
        optimizer = target.optimizer_for(model)
        optimizer.load_state_dict(save_and_load(run.optimizer.state_dict()))
        memo[id(run.optimizer)] = optimizer
    else:
        optimizer = copy.deepcopy(run.optimizer, memo)
    if "scheduler" in parts:
        scheduler = target.scheduler_for(optimizer)
        scheduler.load_state_dict(save_and_load(run.scheduler.state_dict()))
    else:
        scheduler = copy.deepcopy(run.scheduler, memo)
    scaler = fresh.scaler if "scaler" in parts else copy.deepcopy(run.scaler)
    return replace(fresh, model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
