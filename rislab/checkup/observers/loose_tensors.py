"""Tensors that are weights of no module, get gradients, and are held by no optimiser: they never move."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from torch import Tensor
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, listed
from rislab.checkup.observers.unregistered import plain_tensors
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer, Roots
from rislab.checkup.recording.living_objects import living_optimizers
from rislab.checkup.recording.loss_graph import tensors_behind
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import few_coordinates, is_readable
from rislab.checkup.rules import Code

# Backwards whose tensors are looked at, the tensors of one at most, and backwards that are no accident.
BACKWARDS, LEAVES, AGAIN = 6, 256, 3


class LooseTensors(Observer):
    """Looks at what the first backwards come to, and at the end at what has become of it."""

    def __init__(self) -> None:
        self._loose: dict[int, tuple[int, Tensor, Tensor]] = {}  # how often, itself, and a few of its first numbers
        self._backwards = 0
        self._inputs: set[int] = set()  # places in memory of what networks were given, or is differentiated by
        self._samples: set[int] = set()  # how many there were in forwards and losses: a row for each is no weight
        self._networks: set[int] = set()  # whose forwards have run, by number
        self._attributes: set[int] = set()  # of them, of which more is known
        self._held: set[int] = set()  # tensors of optimisers
        self._findings: list[Finding] = []

    def on_forward_end(self, call: ForwardEvent) -> bool:
        self._inputs |= {_storage(value) for value in call.inputs if is_readable(value)}
        self._samples.add(call.samples)
        if call.network not in self._networks:
            self._networks.add(call.network)
            self._attributes |= {id(leaf) for _, _, _, leaf in plain_tensors(call.module)}
        return self._backwards >= BACKWARDS

    def on_loss(self, call: LossEvent) -> bool:
        self._samples |= {len(value) for value in call.args if isinstance(value, Tensor) and value.dim()}
        return self._backwards >= BACKWARDS

    def on_grad(self, outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        """The loop looks at this gradient itself."""
        for value in sources if self._backwards <= BACKWARDS else ():
            if is_readable(value):
                self._inputs.add(_storage(value))

    def on_backward(self, roots: Roots) -> bool:
        """Note what the first backwards come to."""
        self._backwards += 1
        nodes = [root.grad_fn for root, _ in roots if root.grad_fn is not None]
        leaves = [*islice(tensors_behind(*nodes), LEAVES)] if nodes else []
        for value in leaves if len(leaves) < LEAVES else ():
            if type(value) is Tensor and is_readable(value):
                count, _, first = self._loose.get(id(value)) or (0, value, few_coordinates(value))
                self._loose[id(value)] = count + 1, value, first
        return self._backwards >= BACKWARDS

    def on_optimizer(self, optimizer: Optimizer) -> None:
        """Without one, the loop moves what it trains by hand."""
        self._held |= set(map(id, tensors_held(optimizer)))

    def end(self, error: BaseException | None) -> None:
        """Look at the gradients that are there, and at what optimisers hold."""
        loose, self._loose = self._loose, {}
        if not loose or not self._held:
            return
        self._held |= {id(value) for one in living_optimizers() for value in tensors_held(one)}
        missed = [
            "×".join(map(str, value.shape)) or "a number"
            for key, (count, value, first) in loose.items()
            if count >= AGAIN and key not in self._attributes | self._held and _storage(value) not in self._inputs
            if not (value.dim() and len(value) > 1 and len(value) in self._samples)
            if value.grad is not None and bool(value.grad.any()) and few_coordinates(value).equal(first)
        ]
        if missed:
            text = f"{len(missed)} tensors that are weights of no module got gradients and never moved, of the shapes "
            self._findings = [as_fault(Code.WEIGHTS, "tensors that no optimiser holds", text + listed(missed))]

    def findings(self) -> list[Finding]:
        return self._findings


def _storage(value: Tensor) -> int:
    """Where the memory begins that a tensor shares with its parts."""
    return value.untyped_storage().data_ptr()
