"""Layers that were put together wrongly: in a Python list, so that no optimiser holds them, or one in all places."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning, listed
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.recording.living_objects import living_optimizers
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import few_coordinates, has_numbers, has_own_weights, is_readable, may_live_on
from rislab.checkup.rules import Code

# So many forwards of a network are looked into; so many networks, and modules, are remembered, and live as long; by so
# many operations an attribute may be made of a parameter.
FORWARDS, NETWORKS, MODULES, DEPTH = 8, 6, 64, 4
# Frozen tensors of a network that are looked at; steps with a gradient, and forwards, that are no accident.
FROZEN, STEPS, AGAIN = 8, 8, 3


@dataclass
class _Frozen:
    """A weight that was frozen when its network was first called."""

    name: str  # with its network's class
    value: Tensor  # itself
    first: Tensor  # a few of its numbers then
    steps: int = 0  # before which it had a gradient

    def has_moved(self) -> bool:
        return not torch.equal(few_coordinates(self.value), self.first)


class UnregisteredTensors(Observer):
    """Looks for modules in training mode that no other module holds, and whose tensors are in no optimiser."""

    def __init__(self) -> None:
        self._looked: dict[int, int] = {}
        self._modules: dict[int, tuple[nn.Module, nn.Module]] = {}  # with the network in whose forward it was called
        # Attributes of a module that are neither weights nor buffers: by name, with their module, and with what they
        # were computed from, themselves for most.
        self._plain: list[tuple[str, nn.Module, Tensor, Tensor]] = []
        self._first: dict[int, tuple[Tensor, float]] = {}
        self._held: set[int] = set()  # tensors of optimisers
        self._begun: Counter[int] = Counter()  # forwards in training, by network
        self._weights: dict[str, nn.Parameter] = {}  # of the network whose forward runs
        self._new: dict[str, nn.Parameter] = {}  # weights that the last forward made, by name
        self._made: dict[str, int] = {}  # how often a step found a gradient at such a weight
        self._frozen: list[_Frozen] = []
        self._tables: list[tuple[str, Tensor, Tensor]] = []  # an embedding and a layer that begin as one, and are two
        self._findings: list[Finding] = []
        self._steps = False  # whether an optimiser ever steps
        self.missed: list[str] = []  # names of tensors that got gradients, never moved, and are in no optimiser

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """What a network holds before a forward it holds after it, too."""
        self._weights = {}
        if training and torch.is_grad_enabled() and self._begun[id(module)] < FORWARDS:
            self._begun[id(module)] += 1
            self._weights = dict(nn.Module.named_parameters(module))

    def on_forward_end(self, call: ForwardEvent) -> None:
        """Look into the first forwards of each network."""
        for name, weight in nn.Module.named_parameters(call.module) if self._weights else ():
            if name in self._weights and self._weights[name] is not weight:
                self._new[f"{type(call.module).__name__}.{name}"] = weight
        self._weights = {}
        looks = self._looked.get(call.network, 0)
        if looks >= FORWARDS or not call.training or not torch.is_grad_enabled():
            return
        # Transforms of samples are modules too.
        weights = any(next(nn.Module.parameters(module), None) is not None for module in call.inner)
        if not weights and not plain_tensors(call.module):
            return
        if not looks and not may_live_on(call.module, len(self._looked), NETWORKS):
            return
        self._looked[call.network] = looks + 1
        if not looks:
            self._findings += _repeated_layers(call.module)
            self._tables += _equal_tables(call.module)
            for name, module, value, leaf in plain_tensors(call.module):
                self._plain.append((name, module, value, leaf))
                self._remember(leaf)
            frozen = [one for one in nn.Module.named_parameters(call.module) if not one[1].requires_grad]
            some = [(f"{type(call.module).__name__}.{name}", value) for name, value in frozen if is_readable(value)]
            self._frozen += [_Frozen(name, value, few_coordinates(value)) for name, value in some[:FROZEN]]
        registered = set(map(id, call.module.modules())) - {id(call.module)}
        for module in call.inner:
            if id(module) not in registered and len(self._modules) < MODULES and id(module) not in self._modules:
                self._modules[id(module)] = module, call.module
                for value in nn.Module.parameters(module):
                    self._remember(value)

    def _remember(self, value: Tensor) -> None:
        """What is on the meta device, as some libraries make for the shapes alone, has no numbers."""
        if has_numbers(value):
            self._first[id(value)] = value, _fingerprint(value)

    def on_optimizer(self, optimizer: Optimizer) -> None:
        """What steps holds its tensors: for most loops, no other optimiser need be looked for."""
        self._held |= set(map(id, tensors_held(optimizer)))

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """Has what was frozen, or made by a forward, a gradient by now?"""
        self._steps = True
        for name, weight in self._new.items():
            # Without one it is no weight: averages of codes are stored as parameters too.
            if weight.grad is not None:
                self._made[name] = self._made.get(name, 0) + 1
        self._new = {}
        for one in self._frozen:
            one.steps += one.value.requires_grad and one.value.grad is not None

    def end(self, error: BaseException | None) -> None:
        """Look at the gradients that are there, and at what optimisers hold."""
        unfrozen = [one for one in self._frozen if one.steps >= STEPS and one.value.requires_grad]
        if (
            self._plain
            or self._tables
            or unfrozen
            or self._made
            or any(self._missed(module) for module, _ in self._modules.values())
        ):
            self._held |= {id(value) for one in living_optimizers() for value in tensors_held(one)}
        for module, caller in self._modules.values():
            missed = self._missed(module)
            trained = any(id(value) in self._held for value in nn.Module.parameters(module))
            if missed and not trained:
                self.missed += [f"{type(module).__name__}.{name}" for name in missed]
                where = "" if module is caller else f", called in {type(caller).__name__}, which does not hold it"
                text = f"{type(module).__name__}{where}: {len(missed)} tensors got gradients and never moved: "
                name = "tensors that no optimiser holds"
                # Where none steps, another library may move what the network is given: a point, an image.
                as_severe = as_fault if self._steps else as_note
                self._findings.append(as_severe(Code.WEIGHTS, name, text + listed(missed)))
        again = [name for name, count in self._made.items() if count >= AGAIN]
        if again:
            text = f"the forward makes {len(again)} weights anew each time, and what was made before is gone: "
            self._findings.append(as_fault(Code.WEIGHTS, "weights made in the forward", text + listed(again)))
        late = [one.name for one in unfrozen if id(one.value) not in self._held and not one.has_moved()]
        if late:
            text = f"{len(late)} tensors were frozen at first, got gradients in {max(one.steps for one in unfrozen)} "
            text += f"steps since, and never moved: {listed(late)}"
            self._findings.append(as_fault(Code.WEIGHTS, "tensors that no optimiser holds", text))
        plain = [
            f"{type(module).__name__}.{name}"
            for name, module, value, leaf in self._plain
            if vars(module).get(name) is value
            and self._is_missed(leaf)
            and bool(leaf.grad is not None and leaf.grad.any())
        ]
        if plain:
            text = f"{len(plain)} tensors that are no nn.Parameter got gradients and never moved: {listed(plain)}"
            self._findings.append(as_fault(Code.WEIGHTS, "tensors that no optimiser holds", text))
        for text, one, other in self._tables:
            if {id(one), id(other)} <= self._held and not torch.equal(one, other):
                text = (
                    f"{text} were equal before the first step, in memory of their own: both are trained, and differ now"
                )
                self._findings.append(as_warning(Code.WEIGHTS, "tied weights come apart", text))
        self._plain, self._frozen, self._tables = [], [], []

    def _missed(self, module: nn.Module) -> list[str]:
        """Names of tensors that got gradients, never moved, and that no known optimiser holds."""
        return [name for name, value in module.named_parameters() if self._is_missed(value)]

    def _is_missed(self, value: Tensor) -> bool:
        return value.grad is not None and id(value) not in self._held and self._never_moved(value)

    def _never_moved(self, value: Tensor) -> bool:
        first = self._first.get(id(value))
        return first is not None and _fingerprint(value) == first[1]

    def findings(self) -> list[Finding]:
        return self._findings


def plain_tensors(network: nn.Module) -> list[tuple[str, nn.Module, Tensor, Tensor]]:
    """Attributes of modules that carry a gradient, and are neither weights nor buffers, by name."""
    return [
        (name, module, value, leaf)
        for module in network.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and value.requires_grad and (leaf := _leaf_of(value)) is not None
    ]


def _leaf_of(value: Tensor) -> Tensor | None:
    """The one tensor that a value was computed from, as by .to() or times a number; itself, if from none."""
    node = value.grad_fn
    for _ in range(DEPTH):
        sources = [] if node is None else [source for source, _ in node.next_functions if source is not None]
        if len(sources) != 1:
            break
        node = sources[0]
    leaf = value if value.is_leaf else getattr(node, "variable", None)
    return leaf if isinstance(leaf, Tensor) else None


def _repeated_layers(network: nn.Module) -> list[Finding]:
    """Lists of layers of a network that hold the same layers, with weights, again and again."""
    results = []
    for name, module in network.named_modules():
        layers: list[nn.Module | None] = [*module] if isinstance(module, nn.ModuleList | nn.Sequential) else []
        for block, times in _repetitions(layers):
            kinds = " and ".join(type(one).__name__ for one in block if one is not None)
            text = f"{times} places of {name or type(network).__name__} hold one {kinds}, as [layer] * n gives it"
            if times * len(block) == len(layers):
                results.append(as_warning(Code.WEIGHTS, "one layer in all places", f"all {text}"))
            # Amid others it may as well be meant.
            elif times >= AGAIN:
                results.append(as_note(Code.WEIGHTS, "one layer in all places", text))
    return results


def _repetitions(layers: list[nn.Module | None]) -> Iterator[tuple[list[nn.Module | None], int]]:
    """The shortest block of layers, with weights, that comes again directly after itself, and how often it comes.

    A place of a list may hold None.
    """
    for length in range(1, len(layers) // 2 + 1):
        run = 0
        for place, same in enumerate([*map(operator.is_, layers, layers[length:]), False]):
            block, times = layers[place : place + length], 1 + run // length
            if not same and times > 1 and any(one is not None and has_own_weights(one) for one in block):
                yield block, times
                return
            run = run + 1 if same else 0


def _equal_tables(network: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """Embeddings and layers of a network that hold the same numbers of one vocabulary, each as a weight of its own."""
    modules = [
        (name, one, one.weight) for name, one in network.named_modules() if type(one) in (nn.Embedding, nn.Linear)
    ]
    tables = [(name, weight) for name, one, weight in modules if type(one) is nn.Embedding and is_readable(weight)]
    layers = [(name, weight) for name, one, weight in modules if type(one) is nn.Linear and is_readable(weight)]
    return [
        (f"{name}.weight and {other}.weight", table, weight)
        for name, table in tables
        for other, weight in layers
        if table is not weight and table.shape == weight.shape and table.data_ptr() != weight.data_ptr()
        if table.requires_grad and weight.requires_grad and torch.equal(table, weight)
        # What begins at one number throughout is no copy.
        if len(few_coordinates(table).unique()) > 1
    ]


def _fingerprint(value: Tensor) -> float:
    held = value.detach()
    return float(torch.view_as_real(held).double().sum()) if held.is_complex() else float(held.double().sum())
