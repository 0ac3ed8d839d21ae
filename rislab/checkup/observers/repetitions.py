"""What comes again where it should not: random numbers, batches of one class, lines with no step between them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from itertools import groupby, pairwise, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import Optimizer
from torch.utils.data import RandomSampler

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.loss_arguments import loss_arguments
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import LossEvent, Observer
from rislab.checkup.recording.printed_lines import Printed, PrintedLines
from rislab.checkup.rules import Code

# Settings of one seed after which training began with the same numbers, and that are no accident.
SETTINGS = 3
# Passes in one random order that are a fault; classes that come one after another, and as often in one order.
PASSES, CLASSES, ROUNDS = 4, 3, 3
# Steps whose targets are looked at, the fewest that tell anything, samples of each, and the share of one class.
LOOKED, STEPS, SAMPLES, SHARE = 64, 6, 8, 0.8
# Epochs that print the same, one after another.
EPOCHS = 3


class RepeatedSeeds(Observer):
    """Listens to torch.manual_seed(), and compares the random states at the forwards that follow."""

    def __init__(self) -> None:
        self._set: tuple[int, str] | None = None  # a seed that was set, and no training forward came since
        self._states: dict[tuple[int, str], list[bytes]] = {}
        self._begun: list[bytes] = []  # those with the last state
        self._drawn = False  # whether numbers were drawn between a forward and the next setting of the seed
        self._last = b""
        self._stepped = self._shuffles = False
        self._orders: Counter[tuple[int, str]] = Counter()  # that a loader drew after the seed was set

    def on_seed(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._stepped:
            self._drawn |= bool(self._last) and _state() != self._last
            self._set, self._shuffles = (int(next(iter((*args, *kwargs.values())))), caller()[0]), False

    def on_pass(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A loader without a generator of its own draws its order from the seed that was set."""
        sampler = args[0].sampler
        self._shuffles |= isinstance(sampler, RandomSampler) and sampler.generator is None and args[0].generator is None

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """The first forward of training after a seed was set."""
        if self._set is None or not training or not torch.is_grad_enabled():
            return
        key, self._set = self._set, None
        self._orders[key] += self._shuffles
        states = self._states.setdefault(key, [])
        self._last = _state()
        if len(states) < LOOKED:
            states.append(self._last)
            self._begun = states

    def on_optimizer(self, optimizer: Optimizer) -> None:
        """A seed that is set before another training begins is none within one."""
        self._begun, begun = [], self._begun
        self._orders.clear()
        if begun:
            begun.pop()

    def after_step(self, optimizer: Optimizer) -> bool:
        self._stepped = True
        return True

    def findings(self) -> list[Finding]:
        """One for each line that sets the same seed again and again while the network is trained."""
        results = []
        for (seed, where), states in self._states.items():
            if len(states) >= SETTINGS and len(set(states)) == 1 and self._drawn:
                text = f"the seed {seed} was set {len(states)} times between steps, and training went on with the same "
                text += "random numbers each time"
                orders = self._orders[seed, where]
                text += f": a loader that shuffles drew one order, {orders} times" if orders >= PASSES else ""
                make = as_fault if orders >= PASSES else as_warning
                results.append(make(Code.LOSSES, "the same random numbers again", text, where))
        return results


def _state() -> bytes:
    return hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()


class ClassesOfBatches(Observer):
    """Looks at the classes of the first steps' targets."""

    def __init__(self) -> None:
        self._now: set[int] = set()
        self._steps: list[int] = []  # the class of each step, -1 if it had several
        self._where = ""
        self._optimizers = 0

    def on_optimizer(self, optimizer: Optimizer) -> None:
        self._optimizers += 1

    def on_loss(self, call: LossEvent) -> bool:
        if len(self._steps) >= LOOKED:
            return True
        given = loss_arguments(call) if call.function in (functional.cross_entropy, functional.nll_loss) else None
        if given is None or not (isinstance(call.output, Tensor) and call.output.requires_grad):
            return False
        target = given[1]
        if target.is_floating_point() or target.dim() != 1 or len(target) < SAMPLES:
            self._now.add(-1)
            return False
        lowest, highest = (int(end) for end in target.aminmax())
        self._now |= {lowest, highest}
        self._where = self._where or caller()[0]
        return False

    def after_step(self, optimizer: Optimizer) -> bool:
        if self._now:
            self._steps.append(self._now.pop() if len(self._now) == 1 else -1)
        self._now.clear()
        return len(self._steps) >= LOOKED

    def findings(self) -> list[Finding]:
        """One if nearly all steps had targets of one class each, and not always the same."""
        single = [one for one in self._steps if one >= 0]
        runs = sum(one != two for one, two in pairwise(single))
        if len(self._steps) < STEPS or len(single) < SHARE * len(self._steps) or not runs:
            return []
        text = f"{len(single)} of {len(self._steps)} steps had targets of one class each, of {len(set(single))} classes"
        text += ": the samples are not shuffled"
        rounds = self._rounds()
        text += (
            f"; {rounds} times the classes came one after another, each for several steps, in one order"
            if rounds
            else ""
        )
        return [(as_fault if rounds else as_warning)(Code.LOSSES, "batches of one class", text, self._where)]

    def _rounds(self) -> int:
        """How often all classes came in one order, each for some steps; 0 if a loop may have chosen them so.

        Domains, and the samples of an adversary, take turns; what each client holds is learned by its own optimiser.
        """
        blocks = [(one, len([*steps])) for one, steps in groupby(self._steps)]
        order = [*dict.fromkeys(self._steps)]
        rounds = len(blocks) // max(1, len(order))
        same = [one for one, _ in blocks] == (order * (rounds + 1))[: len(blocks)]
        long = all(length > 1 for _, length in blocks[:-1])
        known = self._optimizers == 1 and -1 not in order and len(order) >= CLASSES
        return rounds if known and same and long and rounds >= ROUNDS else 0


class EpochsWithoutSteps(Observer):
    """Counts the steps between the lines that a loop prints of its epochs."""

    def __init__(self, steps: StepCount) -> None:
        self._lines, self._steps = PrintedLines(), steps

    def on_print(self, line: Printed) -> None:
        self._lines.add(line, self._steps.total)

    def findings(self) -> list[Finding]:
        """One for each kind of line that holds the same numbers from some step on, which was the last one."""
        results = []
        for (text, where), lines in self._lines.kinds.items():
            last = lines[-1]
            same = len([*takewhile(last.__eq__, reversed(lines))])
            if same >= EPOCHS and last.place == self._steps.total > 0 and "epoch" in text.lower():
                evidence = f"{same} epochs printed the same numbers, the last of them {last.numbers[-1]}, and no step "
                evidence += f"came between: {self._steps.total} steps were taken before"
                results.append(as_fault(Code.STEPS, "epochs without a step", evidence, where))
        return results
