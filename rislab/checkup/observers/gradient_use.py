"""Which terms of a loss train anything: whether a step comes before their gradients are zeroed, and whose step."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer, Roots
from rislab.checkup.recording.loss_graph import parts_of_sum, summands, tensors_behind, weighed_node
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.rules import Code

# So many backwards are looked at; so many must agree.
BACKWARDS, AGREEING = 48, 3
# Tensors of each optimiser whose gradients are looked at.
WITNESSES = 3
# A gradient that was neither zeroed nor stepped on in so many further backwards is forgotten.
OPEN = 8
# The cosine of two gradients of which one undoes the other.
AGAINST = -0.5


@dataclass(eq=False)
class _Term:
    """A term of what backward() was called on."""

    held: dict[int, list[Tensor]]  # for each optimiser, by its number, some of its tensors that the term depends on
    reached: list[int]  # numbers of these optimisers, that of the nearest tensor first
    loose: bool  # whether it depends on tensors that no optimiser holds
    steppers: list[int] = field(default_factory=list)  # numbers of the optimisers that stepped on its gradient

    def note_zeroed(self) -> None:
        """Forget the optimisers whose gradients are gone."""
        for number, tensors in [*self.held.items()]:
            if not any(value.grad is not None and bool(value.grad.any()) for value in tensors):
                del self.held[number]


@dataclass(eq=False)
class _Use:
    """A backward, and what became of its gradients."""

    where: str  # file and line
    stack: tuple[str, ...]  # files and lines that led there
    terms: list[_Term]  # of what it was called on
    age: int = 0  # how many backwards came after it
    weighed: bool = False  # whether it began at a multiple of the loss
    before: dict[int, Tensor] = field(default_factory=dict)  # gradients that were there, by the tensors' identities

    def cosine(self, number: int | None = None) -> float:
        """Between what was there before and what has been added since; not a number where one of them is nothing.

        Args:
            number: of the optimiser whose tensors are looked at, all of them if None.
        """
        owners = [(one, values) for term in self.terms for one, values in term.held.items()]
        held = [value for one, values in owners if number in (None, one) for value in values]
        tensors = {id(value): value.grad for value in held if value.grad is not None and id(value) in self.before}
        if not tensors:
            return math.nan
        left = torch.cat([self.before[one].flatten() for one in tensors])
        own = torch.cat([gradient.detach().flatten() for gradient in tensors.values()]) - left
        return float((left @ own) / (left.norm() * own.norm()))


@dataclass
class _Place:
    """What backwards of one line have shown."""

    where: str  # file and line
    # For each backward, the places of the terms that nobody stepped on, while another one was.
    wasted: list[set[int]] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)  # their number, for each backward
    reached: dict[int, str] = field(default_factory=dict)  # whom each wasted term reached
    passed: set[int] = field(default_factory=set)  # wasted terms of what other terms train something through


class GradientUse(Observer):
    """Follows the gradients of the first backwards, until they are zeroed or stepped on."""

    def __init__(self) -> None:
        self._backwards = 0
        self._optimizers: list[tuple[weakref.ReferenceType[Optimizer], str]] = []  # with what they are called
        self._holder: dict[int, int] = {}
        self._open: list[_Use] = []
        self._places: dict[tuple[str, ...], _Place] = {}
        self._fed: dict[str, list[tuple[str, float]]] = {}  # by the line of the own loss: words, and a cosine
        # By the line of the own loss, where a step goes against it, or on what was to change inputs: words, a cosine.
        self._against: dict[str, list[tuple[str, float]]] = {}
        self._attacks: dict[str, list[str]] = {}
        self._begun: _Use | None = None
        # The sum that the last backward of an open window began at, how many before it began at a part of it, and
        # where so many did so.
        self._sum: Node | None = None
        self._parts = 0
        self._sums: dict[str, int] = {}

    def on_backward(self, roots: Roots) -> bool:
        self._begun = None
        if self._backwards < BACKWARDS:
            self._note_backward(roots)
            return False
        self._open = []
        return True

    def _note_backward(self, roots: Roots) -> None:
        self._backwards += 1
        self._note_zeroed()
        single = roots[0][0] if len(roots) == 1 else None
        if single is None or single.grad_fn is None or single.numel() != 1:
            return
        self._note_sum(single)
        if not self._optimizers:
            return
        node = weighed_node(single, ())
        terms = summands(node) if node is not None else []
        where, stack = caller()
        results = [self._term(term) for term in terms]
        if results and all(term is not None for term in results):
            known = [term for term in results if term is not None]
            held = [value for term in known for values in term.held.values() for value in values]
            before = {id(value): value.grad.detach().clone() for value in held if value.grad is not None}
            self._begun = _Use(where, stack, known, weighed=node is not single.grad_fn, before=before)

    def _note_sum(self, root: Tensor) -> None:
        """A backward at a sum of which the last one began at a part counts that part once more."""
        node = weighed_node(root, ())
        again = node is not None and node is not self._sum and self._sum in parts_of_sum(node)
        self._sum, self._parts = node, self._parts + 1 if again else 0
        if self._parts >= AGREEING:
            where = caller()[0]
            self._sums[where] = max(self._parts, self._sums.get(where, 0))

    def on_backward_end(self) -> bool:
        """The gradients of a backward are there."""
        if self._begun is not None:
            self._open.append(self._begun)
            self._begun = None
        return self._backwards >= BACKWARDS

    def _term(self, node: Node) -> _Term | None:
        """The tensors that a term depends on, those nearest to it first; None if there are too many nodes."""
        held: dict[int, list[Tensor]] = {}
        loose = False
        for value in tensors_behind(node):
            if value is None:
                return None
            number = self._holder.get(id(value))
            # The tensors of one that is gone may be so too, and others have their addresses.
            number = number if number is None or self._optimizers[number][0]() is not None else None
            loose |= number is None
            if number is not None:
                held.setdefault(number, []).append(value)
        return _Term({number: _smallest(values) for number, values in held.items()}, [*held], loose)

    def _note_zeroed(self) -> None:
        """See whose gradients are gone, and close what nobody can step on any more."""
        for use in self._open:
            use.age += 1
            for term in use.terms:
                term.note_zeroed()
        for use in [*self._open]:
            if not any(term.held for term in use.terms) or use.age > OPEN:
                self._open.remove(use)
                self._close(use)

    def _close(self, use: _Use) -> None:
        if use.age > OPEN and any(term.held for term in use.terms):
            return
        trained = [bool(term.steppers) for term in use.terms]
        wasted = {place for place, done in enumerate(trained) if not done and use.terms[place].reached}
        wasted = {place for place in wasted if not use.terms[place].loose} if any(trained) else set()
        place = self._places.setdefault(use.stack, _Place(use.where))
        place.wasted.append(wasted)
        place.terms.append(len(use.terms))
        passed = {number for term, done in zip(use.terms, trained, strict=True) if done for number in term.reached}
        for one in wasted:
            place.reached[one] = self._label(use.terms[one].reached)
            place.passed |= {one} if passed.issuperset(use.terms[one].reached) else set()

    def _label(self, numbers: list[int]) -> str:
        return " and ".join(self._optimizers[one][1] for one in numbers)

    def before_step(self, optimizer: Optimizer, closure: bool) -> bool:
        """A step begins: on what gradients?"""
        self._sum = None
        if self._backwards >= BACKWARDS and not self._open:
            return True
        self._note_step(optimizer)
        return False

    def _note_step(self, optimizer: Optimizer) -> None:
        number = next((place for place, (one, _) in enumerate(self._optimizers) if one() is optimizer), None)
        if number is None:
            # New: what is open was followed without it.
            if self._backwards < BACKWARDS:
                held = tensors_held(optimizer)
                self._holder |= {id(value): len(self._optimizers) for value in held}
                label = f"the {type(optimizer).__name__} of {len(held)} tensors"
                self._optimizers.append((weakref.ref(optimizer), label))
            self._open = []
            return
        for use in self._open:
            for term in use.terms:
                term.note_zeroed()
        live = [use for use in self._open if any(number in term.held for term in use.terms)]
        self._note_fed(number, live)
        for use in live:
            for term in use.terms:
                if number in term.held and number not in term.steppers:
                    term.steppers.append(number)

    def _note_fed(self, number: int, live: list[_Use]) -> None:
        """A step on a gradient that another optimiser has stepped on already, and on one of its own loss alone."""
        own = [use for use in live if all(term.reached == [number] for term in use.terms)]
        for use in live:
            for term in use.terms:
                others = [one for one in term.steppers if one != number]
                # The other's tensors lie behind its own, as a generator's behind the discriminator.
                behind = bool(others) and term.reached[0] == number and number not in term.steppers
                if behind and own and own[-1] is not use and own[-1].age < use.age:
                    text = f"{self._label([number])} also steps on the gradient of the backward at {use.where}, on "
                    text += f"which {self._label(others[:1])} has stepped before"
                    self._fed.setdefault(own[-1].where, []).append((text, own[-1].cosine()))
                    return
        self._note_against(number, live)
        self._note_attack(live)

    def _note_against(self, number: int, live: list[_Use]) -> None:
        """A step on the sum of two gradients, the first of which another optimiser has stepped on already."""
        before = [
            use
            for use in live[:-1]
            if all(term.steppers and number not in term.steppers for term in use.terms if number in term.held)
        ]
        newest = live[-1] if live else None
        if newest is None or len(before) != 1 or before[0].stack == newest.stack:
            return
        if any(term.steppers for term in newest.terms):
            return  # both optimisers step on both losses
        others = [term.steppers[0] for term in before[0].terms if number in term.held]
        text = f"{self._label([number])} also steps on the gradient of the backward at {before[0].where}, on which "
        text += f"{self._label(others[:1])} has stepped before"
        self._against.setdefault(newest.where, []).append((text, newest.cosine(number)))

    def _note_attack(self, live: list[_Use]) -> None:
        """A step on gradients of backwards that reached what no optimiser holds as well, as the change of an input."""
        attacks = [use for use in live[:-1] if not use.weighed and all(term.loose for term in use.terms)]
        if len(attacks) < 2 or len(attacks) < len(live) - 1 or len({use.stack for use in attacks}) > 1:
            return
        newest = live[-1]
        if not any(term.loose for term in newest.terms) and not any(
            term.steppers for use in live for term in use.terms
        ):
            text = f"gradients of {len(attacks)} backwards at {attacks[0].where}, which reached a tensor that no "
            self._attacks.setdefault(newest.where, []).append(text)

    def findings(self) -> list[Finding]:
        results = []
        for place in self._places.values():
            same = len(set(place.terms)) == 1 and len(place.terms) >= AGREEING
            for one in sorted(set.intersection(*place.wasted)) if same else ():
                text = f"term {one + 1} of {place.terms[0]} of what backward() was called on depends on tensors of "
                text += (
                    f"{place.reached.get(one, 'others')} alone, whose gradients were zeroed before a step, in all of "
                )
                text += f"{len(place.terms)} backwards: 0 of it trains anything"
                # A discriminator's loss on data may be left in the generator's, which others of its terms train.
                kind = as_warning if one in place.passed else as_fault
                results.append(kind(Code.LOSSES, "a term of the loss trains nothing", text, place.where))
        for where, texts in self._fed.items():
            if len(texts) >= AGREEING:
                text = f"in {len(texts)} steps {texts[-1][0]}"
                cosines = [cosine for _, cosine in texts if not math.isnan(cosine)]
                # Two losses may be meant to train one network, unless one undoes what the other does.
                certain = sum(cosine < AGAINST for cosine in cosines) > len(texts) / 2
                text += f", with a median cosine of {_median(cosines):.2g} to its own" * certain
                kind = as_fault if certain else as_warning
                results.append(kind(Code.ZEROING, "gradients of another loss", text, where))
        for where, texts in self._against.items():
            cosines = [cosine for _, cosine in texts if not math.isnan(cosine)]
            if len(texts) >= AGREEING and sum(cosine < AGAINST for cosine in cosines) > len(texts) / 2:
                text = (
                    f"in {len(texts)} steps {texts[-1][0]}, with a median cosine of {_median(cosines):.2g} to its own"
                )
                results.append(as_fault(Code.ZEROING, "gradients of another loss", text, where))
        for where, parts in self._sums.items():
            text = f"{parts + 1} backwards before one step began at a sum, each at that of the one before and one more "
            text += f"loss: the first loss counts {parts + 1} times, the last one once"
            results.append(as_fault(Code.ZEROING, "losses counted again", text, where))
        for where, words in self._attacks.items():
            if len(words) >= AGREEING:
                text = f"{len(words)} steps also take the {words[-1]}optimiser holds: an attack, whose gradients were "
                results.append(as_fault(Code.ZEROING, "gradients of another loss", f"{text}not zeroed after it", where))
        return results

    def end(self, error: BaseException | None) -> None:
        self._open, self._begun, self._optimizers, self._sum = [], None, [], None


def _smallest(values: list[Tensor]) -> list[Tensor]:
    return sorted(values, key=Tensor.numel)[:WITNESSES]


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))
