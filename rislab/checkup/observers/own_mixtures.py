"""Weights, or copies of weights, that are mixed with themselves, or copied onto themselves: nothing follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import is_readable

# By which a share is taken, and mixed in.
PRODUCTS, MIXING = ("mul", "__mul__", "__rmul__", "mul_", "__imul__"), ("lerp", "lerp_")
# Tensors that must do it, times in all, and rounding of a share.
TOGETHER, TIMES, ROUNDING = 2, 8, 1e-5


class OwnMixtures:
    """Weights of which a share is taken, and then the rest, or tensors like them that are copied onto themselves.

    What should follow the weights is, by mistake, what it is mixed with.
    """

    def __init__(self) -> None:
        self._last: tuple[Any, float] = (None, 0.0)  # what was multiplied last, and the factor
        self._mixed: Counter[int] = Counter()  # by address
        self._alike: Counter[torch.Size] = Counter()  # the same by shape: what takes the place of a copy has its own
        self._share = 0.0
        # Between two steps: shapes of tensors that were copied onto themselves, and whether others were copied. Those
        # of a network that is shared in part are among others.
        self._onto: list[tuple[int, torch.Size]] = []  # with their addresses
        self._copied = False
        self._times = 0  # how often there were such tensors, and no others
        self._copies: Counter[torch.Size] = Counter()  # of these, all in all

    def note_step(self, optimizers: Iterable[Optimizer]) -> None:
        """A step begins: what these optimisers hold may well stay as it is."""
        if self._onto and not self._copied:
            held = {value.data_ptr() for one in optimizers for value in tensors_held(one)}
            own = [shape for place, shape in self._onto if place not in held]
            self._times += bool(own)
            self._copies.update(own)
        self._onto, self._copied = [], False

    def note_call(self, given: Sequence[Any], name: str) -> None:
        """A function of torch was called outside of forwards."""
        if (
            name == "copy_"
            and len(given) > 1
            and all(isinstance(one, Tensor) and is_readable(one) for one in given[:2])
        ):
            same = _place(given[0]) == _place(given[1])
            self._onto += [(given[0].data_ptr(), given[0].shape)] * same
            self._copied |= not same
        if name not in (*PRODUCTS, *MIXING, "add_") or (torch.is_grad_enabled() and given[0].requires_grad):
            return
        places = [_place(one) for one in given if isinstance(one, Tensor) and is_readable(one)]
        factor = next((one for one in reversed(given) if isinstance(one, float)), 0.0)
        # A half is taken for other ends too.
        if not places or not 0 < factor < 1 or factor == 0.5 or any(one != places[0] for one in places):
            self._last = None, 0.0
            return
        rest = places[0] == self._last[0] and abs(self._last[1] + factor - 1) <= ROUNDING
        if (len(places) == 2 and (name in MIXING or rest)) or (len(places) == 1 and rest and name in PRODUCTS):
            self._mixed[places[0][0]] += 1
            self._alike[places[0][2]] += 1
            self._share = min(factor, 1 - factor)
        self._last = (places[0], factor) if name in PRODUCTS else (None, 0.0)

    def evidence(self, weights: Iterable[int]) -> str:
        """What was measured of weights at these addresses, "" if none is mixed with itself."""
        own = {place: self._mixed[place] for place in weights if self._mixed[place]}
        if len(own) < TOGETHER or sum(own.values()) < TIMES:
            return ""
        text = f"{len(own)} of the weights that are trained were mixed with themselves, {sum(own.values())} times in "
        text += f"what was looked at, {self._share:.3g} of each with the rest of it: what is to follow them is no copy"
        return text

    def evidence_of_copies(self, shapes: Collection[torch.Size]) -> str:
        """What was measured of tensors of some shapes that are copied onto, or mixed with, themselves, or ""."""
        onto, mixed = (sum(count[shape] for shape in shapes) for count in (self._copies, self._alike))
        several = sum(self._alike[shape] > 0 for shape in shapes) >= min(TOGETHER, len(shapes))
        text = "tensors of the shapes of the weights were {} themselves, {} times in what was looked at{}: what is to "
        text += "follow the weights stays as it is"
        if onto >= max(TOGETHER, self._times * TOGETHER):
            return text.format("copied onto", onto, ", and no others were copied between the same steps")
        return text.format("mixed with", mixed, "") if several and mixed >= TIMES else ""


def _place(value: Tensor) -> tuple[int, tuple[int, ...], torch.Size]:
    return value.data_ptr(), value.stride(), value.shape
