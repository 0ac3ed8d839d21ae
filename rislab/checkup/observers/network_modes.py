"""Networks in the wrong mode, and evaluations on other inputs: told by the first forwards of each network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.optimizer import Optimizer
from torch.optim.swa_utils import AveragedModel

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.recording.looks import FIRST, Looks
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import few_coordinates, is_readable, may_live_on
from rislab.checkup.recording.tracking import DROPOUTS, NORMS
from rislab.checkup.rules import Code

# Networks that are followed; inputs of each, and numbers of each input that are read.
NETWORKS, INPUTS, NUMBERS = 6, 4, 4096
# An evaluation comes after at least so many steps, on average; and steps that tell anything.
STEPS_BETWEEN, STEPS = 4, 8
# Forwards that must agree.
AGREEING = 3
# Deviations of the training inputs by which those of an evaluation are away, times their spread, or a share of it.
FAR, WIDE, NARROW = 6.0, 8.0, 1 / 40
# Dimensions of a batch of images; the largest numbers of those that are prepared, and of the darkest ones of bytes.
IMAGE, SMALL, DARK = 4, 10.0, 64.0
# The share of each batch in running statistics: beyond these, they hold the first values, or those of the last batch.
SLOWEST, FASTEST = 0.002, 0.9
_WRAPPERS = (DataParallel, DistributedDataParallel)


@dataclass(eq=False)
class _Forwards:
    """What forwards of one kind have shown."""

    count: int = 0  # of those that were looked at
    alone: int = 0  # in which the network itself was in evaluation mode, and all in it in training mode
    steps: set[int] = field(default_factory=set)  # numbers of the steps before which they came
    where: str = ""  # file and line of the last
    # Mean, standard deviation and shape without the samples, of each input of each forward.
    inputs: list[list[tuple[float, float, torch.Size]]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)  # what the images of each hold: "bytes", "small" numbers or others
    places: tuple[int, int] = (0, 0)  # memory of the first inputs since the last step
    repeated: set[int] = field(default_factory=set)  # steps before which one input came twice in a row

    def note(self, call: ForwardEvent, step: int) -> None:
        """One more forward."""
        self.count += 1
        self.steps.add(step)
        self.where = caller()[0]
        given = call.inputs[:INPUTS]
        self.inputs.append([_spread(value) for value in given if value.is_floating_point()])
        self.images += [_numbers_of(given[0])] if len(given) == 1 and given[0].dim() == IMAGE else []
        place = (given[0].data_ptr() if given else 0, step)
        self.repeated |= {step} if given and place == self.places else set()
        self.places = place

    def are_rare(self) -> bool:
        """Whether steps lie between them: told by the first, since later ones are looked at ever more rarely."""
        first = sorted(self.steps)[:FIRST]
        return not first or first[-1] - first[0] >= STEPS_BETWEEN * (len(first) - 1)


@dataclass(frozen=True, eq=False)
class _Average:
    """An evaluation of a network that may hold averages."""

    where: str  # file and line
    weight: float  # its weights in one number
    mean: Tensor  # its first running mean
    stale: int = 0  # evaluations so far in which its weights were others than before, and its statistics were not
    # Whether it is an equal average of weights of several moments, with the statistics of the last one.
    equal: bool = False


class _Pause:
    """The time since the last step of an optimiser that holds a network, and its forwards in training mode since."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = frozenset(map(id, nn.Module.parameters(module)))
        self.last_step = self.begun = 0  # number of the last step, and of that after which forwards are kept
        self.weight = 0.0  # what the weights were then, in one number
        self.forwards = _Forwards()

    def note(self, call: ForwardEvent, module: nn.Module, step: int) -> None:
        """One more forward; those before the last step tell no more."""
        if self.begun != self.last_step or not self.forwards.count:
            self.begun, self.weight, self.forwards = self.last_step, _first_weight(module), _Forwards()
        self.forwards.note(call, step)


@dataclass(eq=False)
class _Network:
    """One network, with the layers that depend on its mode."""

    module: nn.Module  # itself
    norms: list[Any]  # its layers with running statistics
    drops: list[Any]  # its layers with a dropout
    first: float  # a number of its first weight, which tells whether it moves
    stepped: bool = False  # whether an optimiser stepped one of its tensors
    trained: _Forwards = field(default_factory=_Forwards)
    evaluated: _Forwards = field(default_factory=_Forwards)
    training_mode: _Forwards = field(default_factory=_Forwards)
    frozen_norms: int = 0
    # Of its frozen layers: a weight at first, a running mean now, and the frozen weights that began as copies of
    # trained ones, each with a few of its numbers then.
    statistics: tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]] | None = None
    statistics_moved: bool = False
    never_moved: str = ""
    feeds: bool = False
    normalised: bool = False  # whether it was trained on the statistics of batches
    # What its evaluations in evaluation mode have shown, if it is one of another network's weights.
    average: _Average | None = None

    @classmethod
    def of(cls, module: nn.Module) -> _Network:
        """What is to be known of a module."""
        layers = list(module.modules())
        norms = [one for one in layers if isinstance(one, NORMS) and one.running_mean is not None]
        drops: list[Any] = [one for one in layers if isinstance(one, DROPOUTS) and one.p > 0]
        drops += [one for one in layers if isinstance(one, nn.RNNBase | nn.MultiheadAttention) and one.dropout > 0]
        return cls(module, norms, drops, _first_weight(module))

    def is_loose(self) -> bool:
        """Whether a layer that depends on the mode is in training mode, as none is once all are in evaluation mode."""
        return any(one.training for one in (*self.norms, *self.drops))

    def note_statistics(self) -> None:
        """An evaluation: have its weights moved since the last one, and its statistics not?"""
        weight, mean = _first_weight(self.module), self.norms[0].running_mean.detach().clone()
        before = self.average or _Average("", weight, mean)
        stale = before.stale + (before.weight != weight and torch.equal(before.mean, mean))
        # A moving average follows the last weights closely, and so do their statistics.
        one = self.module if isinstance(self.module, AveragedModel) and not self.module.use_buffers else None
        equal = one is not None and one.avg_fn is None and one.multi_avg_fn is None and bool(one.n_averaged > 1)
        self.average = _Average(caller()[0], weight, mean, stale, equal)

    def frozen(self) -> list[Any]:
        """Layers in training mode that move their statistics, and whose own weights are frozen."""
        return [one for one in self.norms if one.training and one.momentum and _is_frozen(one)]


class NetworkModes(Observer):
    """Looks at the first forwards of each network with and without gradients, then ever more rarely."""

    def __init__(self, steps: StepCount) -> None:
        self._count = steps
        self._looks = defaultdict[tuple[bool, ...], Looks](Looks)  # by gradients, mode, and whether it is frozen
        self._steps = Looks()
        self._networks: dict[int, _Network] = {}
        self._pauses: dict[int, _Pause] = {}  # of each network
        self._outputs: dict[int, int] = {}  # the last outputs, by memory: network that gave them
        self._held: WeakKeyDictionary[Optimizer, set[int]] = WeakKeyDictionary()  # their tensors, while they live

    def on_forward_end(self, call: ForwardEvent) -> None:
        module, gradients = call.module, torch.is_grad_enabled()
        if isinstance(module, _WRAPPERS):
            module = module.module
        key = id(module)
        frozen = gradients and not getattr(next(nn.Module.parameters(module), None), "requires_grad", True)
        if not self._looks[gradients, call.training, frozen].wanted_at(module):
            return
        if key not in self._networks:
            if (
                not may_live_on(module, len(self._networks), NETWORKS)
                or next(nn.Module.parameters(module), None) is None
            ):
                return
            self._networks[key], self._pauses[key] = _Network.of(module), _Pause(module)
        network = self._networks[key]
        self._connect(key, call)
        loose = call.training and network.is_loose()
        if not gradients:
            (network.training_mode if loose else network.evaluated).note(call, self._count.total)
            # eval() reaches all modules, and whoever turns a dropout on again leaves the others.
            inner = [] if call.training else [one for one in module.modules() if one is not module]
            if len(inner) > 1 and all(one.training for one in inner):
                network.evaluated.alone += 1
            self._statistics_of(network, call.training)
        elif call.training:
            network.trained.note(call, self._count.total)
            network.normalised |= any(one.training for one in network.norms)
        if loose:
            self._pauses[key].note(call, module, self._count.total)
        if call.training:
            self._look_at_frozen(network)

    def _connect(self, key: int, call: ForwardEvent) -> None:
        """Note that the output of one network is the input of another, as in adversarial training."""
        for value in call.inputs[:INPUTS]:
            source = self._outputs.get(value.data_ptr(), key)
            if source != key and source in self._networks:
                self._networks[source].feeds = True
        if isinstance(call.output, Tensor) and call.output.layout is torch.strided:
            if len(self._outputs) > NETWORKS:
                self._outputs.clear()
            self._outputs[call.output.data_ptr()] = key

    def _look_at_frozen(self, network: _Network) -> None:
        frozen = network.frozen()
        weights = [*nn.Module.parameters(network.module)] if frozen else []
        # A network that is trained in turns with another one is frozen for a while.
        before_another = frozen and network.feeds and not any(id(weights[0]) in held for held in self._held.values())
        if not (before_another or any(value.requires_grad for value in weights)):
            network.frozen_norms = 0
            return
        weight, now = frozen[0].weight.detach(), frozen[0].running_mean.detach().clone()
        first, before, copied = network.statistics or (weight.clone(), now, _frozen_copies(weights))
        if network.frozen_norms:
            network.statistics_moved |= not torch.equal(now, before)
        # Weights that follow another network's, as by momentum, are not frozen.
        network.statistics_moved &= torch.equal(weight, first)
        network.frozen_norms, network.statistics = len(frozen), (first, now, copied)

    def _statistics_of(self, network: _Network, training: bool) -> None:
        """An evaluation with statistics that are those of the beginning, after many steps."""
        if training or not network.norms or self._count.total < STEPS:
            return
        network.note_statistics()
        # In a network that is trained, a layer whose own weights are frozen stays as it is on purpose.
        partly = any(value.requires_grad for value in nn.Module.parameters(network.module))
        norms = [one for one in network.norms if not (partly and _is_frozen(one))]
        first = bool(norms) and all(
            not bool(one.running_mean.any()) and bool((one.running_var == 1).all()) and not one.training
            for one in norms
        )
        # The last evaluation tells: layers that are frozen at first may be trained later.
        network.never_moved = (network.never_moved or caller()[0] or "?") if first else ""

    def after_step(self, optimizer: Optimizer) -> None:
        self.count_steps(optimizer, 1)
        if self._steps.wanted_at(optimizer):
            held = self._held[optimizer] = set(map(id, tensors_held(optimizer)))
            for network in self._networks.values():
                network.stepped = network.stepped or _holds(network.module, held)

    def _is_trained(self, network: _Network) -> bool:
        """Whether an optimiser has stepped one of its tensors."""
        return network.stepped or any(_holds(network.module, held) for held in self._held.values())

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        held = self._held.get(optimizer, set())
        for pause in self._pauses.values():
            if not pause.parameters.isdisjoint(held):
                pause.last_step = self._count.total

    def findings(self) -> list[Finding]:
        results = []
        for key, network in self._networks.items():
            trained = self._is_trained(network)
            name = type(network.module).__name__
            results += self._of_trained(network, name) if trained else self._of_frozen(network, self._pauses[key], name)
            results += self._of_trained_before(network, self._pauses[key], name) if trained else []
            results += _of_momentum(network, name) if trained and network.normalised else []
            if network.never_moved and (trained or self._is_copy(network)):
                text = f"{name} was evaluated after many steps with all running means 0 and all variances 1"
                where = network.never_moved.removeprefix("?")
                # Trained on the statistics of batches, evaluated on none; a copy whose weights stay may be a fixed
                # network of its own.
                followed = network.average is not None and network.average.stale >= AGREEING
                certain = network.normalised if trained else followed
                text += ", and its weights follow those of a trained network" * (certain and not trained)
                kind = as_fault if certain else as_warning
                results.append(kind(Code.MODE, "running statistics never moved", text, where))
            elif not trained and network.average is not None and not network.training_mode.count:
                average = network.average
                if average.equal or (average.stale >= AGREEING and self._is_copy(network, average.mean)):
                    text = f"{name} was evaluated with an average of weights, and with running statistics of the "
                    text += "weights of one moment: no forward in training mode has taken its own"
                    results.append(as_warning(Code.MODE, "average without its statistics", text, average.where))
        return results

    def _is_between(self, steps: set[int]) -> bool:
        """Whether training went on before one of these steps and after it."""
        return any(0 < step < self._count.total for step in steps)

    def _is_copy(self, network: _Network, mean: Tensor | None = None) -> bool:
        """Whether a trained network of the same make has statistics that moved, from a running mean, or from 0."""
        inner = getattr(network.module, "module", network.module)
        return any(
            type(other.module) is type(inner)
            and self._is_trained(other)
            and any(bool(one.running_mean.any()) for one in other.norms)
            and (mean is None or not torch.equal(other.norms[0].running_mean, mean))
            for other in self._networks.values()
        )

    def _of_trained(self, network: _Network, name: str) -> list[Finding]:
        results = []
        wrong, depends = network.training_mode, bool(network.drops) or any(one.momentum for one in network.norms)
        rare = self._count.total >= max(STEPS, STEPS_BETWEEN * min(FIRST, len(wrong.steps))) and wrong.are_rare()
        # Dropout by Monte Carlo is run several times each time; and after the training, statistics are taken once more,
        # before an evaluation in evaluation mode.
        monte_carlo = bool(wrong.repeated) and 2 * len(wrong.repeated) >= len(wrong.steps)
        meant = monte_carlo or network.feeds or (network.evaluated.count and not self._is_between(wrong.steps))
        in_turn = self._is_between(network.evaluated.steps)
        if wrong.count and depends and rare and network.trained.count and not in_turn and not meant:
            layers = "dropout" if network.drops else "BatchNorm"
            text = f"{name} has {layers}, was run without gradients in training mode after {len(wrong.steps)} of "
            text += f"{self._count.total} steps, and never in evaluation mode while training went on"
            results.append(as_warning(Code.MODE, "evaluated in training mode", text, wrong.where))
        alone = network.evaluated.alone
        if alone >= AGREEING and depends and alone == network.evaluated.count:
            text = f"in all {alone} evaluations {name} itself was in evaluation mode, and each module in it in "
            text += "training mode: its attribute `training` was set, which its dropout and BatchNorm do not follow"
            results.append(as_fault(Code.MODE, "evaluated in training mode", text, network.evaluated.where))
        results += _of_statistics(network, name, network.trained)
        away = _away(network)
        if away and not network.feeds:
            text = f"inputs of {name}: {away}"
            where = (network.evaluated if network.evaluated.count else network.training_mode).where
            evaluated = network.evaluated if network.evaluated.count else network.training_mode
            known, others = ({*one.images} for one in (network.trained, evaluated))
            # What is learned of images of small numbers says nothing of their bytes, nor the other way round.
            certain = len(known) == len(others) == 1 and known | others == {"bytes", "small"}
            certain = certain and len(network.trained.images) >= AGREEING
            text += f"; those of {'training' if 'bytes' in known else 'evaluation'} are bytes, up to 255" * certain
            kind = as_fault if certain else as_warning
            results.append(kind(Code.DRIFT, "inputs of evaluation in another range", text, where))
        return results

    def _of_frozen(self, network: _Network, pause: _Pause, name: str) -> list[Finding]:
        """A network that no optimiser steps, that never moves, and that answers in training mode at most steps."""
        runs = max(network.training_mode, network.trained, key=lambda one: len(one.steps))
        if len(runs.steps) < AGREEING or _first_weight(network.module) != network.first or runs.are_rare():
            return []
        if not pause.forwards.count or self._is_between(network.evaluated.steps):
            return _of_statistics(network, name, runs)
        layers = "dropout" if network.drops else "BatchNorm"
        text = f"{name} has {layers}, is trained by no optimiser, and answers in training mode: {runs.count} forwards"
        return [as_warning(Code.MODE, "frozen network in training mode", text, runs.where)]

    def _of_trained_before(self, network: _Network, pause: _Pause, name: str) -> list[Finding]:
        """A network that was trained, and then answers in training mode while others are."""
        last, runs, total = pause.last_step, pause.forwards, self._count.total
        if total - last < max(STEPS, total / 4) or last != pause.begun or len(runs.steps) < AGREEING:
            return []
        evaluated = any(last < step < total for step in network.evaluated.steps)
        if max(runs.steps) - min(runs.steps) < STEPS or runs.are_rare() or evaluated:
            return []
        if _first_weight(network.module) != pause.weight:
            return []
        layers = "dropout" if network.drops else "BatchNorm"
        text = f"{name} has {layers}, and its training was over after {last} steps; it answers in training mode in "
        text += f"the {total - last} steps of others that follow"
        return [as_warning(Code.MODE, "frozen network in training mode", text, runs.where)]


def _frozen_copies(weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Those that are frozen, and equal to one that is trained, each with a few of its numbers."""
    large = [value for value in weights if value.dim() > 1 and is_readable(value)]
    trained = [value for value in large if value.requires_grad]
    return [
        (one, few_coordinates(one))
        for one in large
        if not one.requires_grad and any(one.shape == other.shape and torch.equal(one, other) for other in trained)
    ]


def _is_frozen(norm: Any) -> bool:
    return norm.weight is not None and not norm.weight.requires_grad


def _holds(module: nn.Module, tensors: set[int]) -> bool:
    return any(id(value) in tensors for value in nn.Module.parameters(module))


def _of_statistics(network: _Network, name: str, runs: _Forwards) -> list[Finding]:
    if not network.frozen_norms or not network.statistics_moved or runs.count < AGREEING:
        return []
    text = f"{network.frozen_norms} BatchNorm layers of {name} have frozen weights, and are in training mode: "
    text += "their running statistics move"
    copied = network.statistics[-1] if network.statistics else []
    if copied:
        # A target network answers in training mode; its weights are to follow, too.
        if not all(few_coordinates(value).equal(first) for value, first in copied):
            return []
        text += f"; {len(copied)} weights of {name} that began as copies of trained ones have not moved"
        return [as_warning(Code.WEIGHTS, "average never moves", text, runs.where)]
    return [as_warning(Code.MODE, "statistics of frozen layers move", text, runs.where)]


def _of_momentum(network: _Network, name: str) -> list[Finding]:
    """Statistics that keep next to nothing of the batches before, or of the new one."""
    # A momentum of 1 is asked for where statistics are taken anew.
    odd = [one for one in network.norms if 0 < (one.momentum or 0) <= SLOWEST or FASTEST <= (one.momentum or 0) < 1]
    if not odd or not network.evaluated.count or len(odd) < len(network.norms):
        return []
    share = odd[0].momentum
    slow = f"after {1 / share:.0f} batches, 37% of their statistics are still the first ones"
    why = slow if share <= SLOWEST else "an evaluation is normalised by little more than the last batch"
    text = f"all {len(odd)} layers with running statistics of {name} take {share:.4g} of each new batch: {why}"
    return [as_warning(Code.MODE, "momentum of the statistics", text, network.evaluated.where)]


def _first_weight(module: nn.Module) -> float:
    value = next(nn.Module.parameters(module), None)
    return 0.0 if value is None or not value.numel() else float(value.detach().abs().double().sum())


def _spread(value: Tensor) -> tuple[float, float, torch.Size]:
    flat = value.detach().reshape(-1)
    some = flat[:: max(1, len(flat) // NUMBERS)].double()
    # Of nothing, they are not known.
    spread = some.std(unbiased=False) if len(some) else some.sum() / 0
    return float(some.mean()), float(spread), value.shape[1:]


def _numbers_of(images: Tensor) -> str:
    """ "bytes" if images hold numbers of 0 to 255, "small" if theirs are those of prepared images, else ""."""
    low, high = (float(one) for one in images.detach().aminmax()) if images.numel() else (0.0, math.inf)
    if low >= 0 and DARK < high <= 255:
        return "bytes"
    return "small" if max(-low, high) <= SMALL else ""


def _away(network: _Network) -> str:
    """How inputs of all evaluations differ from those of training, "" if they do not."""
    evaluations = network.evaluated.inputs or network.training_mode.inputs
    trained = network.trained.inputs
    if len(trained) < AGREEING or not evaluations or network.training_mode.repeated:
        return ""
    for place, (_, _, shape) in enumerate(trained[-1]):
        known = [one[place] for one in trained if len(one) > place and one[place][2] == shape]
        others = [one[place] for one in evaluations if len(one) > place and one[place][2] == shape]
        if len(known) < AGREEING or len(others) < len(evaluations):
            continue
        mean = sum(one[0] for one in known) / len(known)
        spread = (sum(one[1] ** 2 + (one[0] - mean) ** 2 for one in known) / len(known)) ** 0.5
        # One number throughout may be a question of its own, and no sample.
        if spread and all(
            abs(m - mean) > FAR * spread or s > WIDE * spread or 0 < s < NARROW * spread for m, s, _ in others
        ):
            text = f"{mean:.3g} ± {spread:.2g} in training, "
            return text + f"{others[-1][0]:.3g} ± {others[-1][1]:.2g} in all {len(others)} evaluations"
    return ""
