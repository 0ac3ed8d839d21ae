"""Functions of a network with a backward of their own, in float64: is it the derivative of their forward?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.probes.network_copies import copy_network
from rislab.checkup.probes.network_probes import runner
from rislab.checkup.probes.seeds import one_seed
from rislab.checkup.recording.call_stack import definition_of
from rislab.checkup.recording.tensors import tensors_of
from rislab.checkup.rules import Code

# Functions that are tried, and numbers that one is given.
FUNCTIONS, NUMBERS = 8, 200_000
# Length of a move; two of them must show one slope, and the backward another.
MOVE, SMOOTH, WRONG = 1e-5, 1e-5, 1e-3


def function_probes(network: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> list[Finding]:
    """A warning for each autograd function of a network whose backward is not the derivative of its forward.

    Those that are meant to differ are left out: whose forward gives what it was given, or nothing that can be derived,
    as where gradients are reversed, clipped or passed straight through a rounding.
    """
    calls: dict[type[Function], tuple[Any, ...]] = {}
    kinds = [*_own_functions(Function)]
    if not kinds:
        return []
    try:
        with _noted(kinds, calls), torch.no_grad():
            runner(copy_network(network).eval())((args, named))
    except Exception:  # of the network, on an input that it does not take
        return []
    findings = []
    for kind, given in calls.items():
        try:
            text = _difference(kind, given)
        except Exception:  # of the function, which need not take numbers of float64
            continue
        if text:
            where = definition_of(vars(kind).get("backward", vars(kind).get("vjp")))
            findings.append(as_warning(Code.DIRECTION, "backward is not the derivative", text, where))
    return findings


def _own_functions(kind: type[Function]) -> Iterator[type[Function]]:
    """Subclasses that are not torch's."""
    for one in type.__subclasses__(kind):
        if not one.__module__.startswith("torch."):
            yield one
        yield from _own_functions(one)


@contextlib.contextmanager
def _noted(kinds: list[type[Function]], calls: dict[type[Function], tuple[Any, ...]]) -> Iterator[None]:
    """Note what each function is given when it is first called."""
    own = {kind: vars(kind).get("forward") for kind in kinds}
    # A subclass has what it inherits under its own name, since a call does not say its class.
    forwards = {kind: kind.forward for kind in kinds}

    def noting(kind: type[Function], forward: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            rest = given[1:] if given and isinstance(given[0], FunctionCtx) else given
            if len(calls) < FUNCTIONS and sum(value.numel() for value in tensors_of(rest)) <= NUMBERS:
                calls.setdefault(kind, tuple(one.detach().clone() if isinstance(one, Tensor) else one for one in rest))
            return forward(*given)

        return called

    try:
        for kind, forward in forwards.items():
            setattr(kind, "forward", staticmethod(noting(kind, forward)))  # noqa: B010
        yield
    finally:
        for kind, held in own.items():
            if held is None:
                del kind.forward
            else:
                setattr(kind, "forward", held)  # noqa: B010


def _difference(kind: type[Function], given: tuple[Any, ...]) -> str:
    """What forward and backward say of a move along each input, "" if they agree or are not meant to."""
    places = [place for place, value in enumerate(given) if isinstance(value, Tensor) and value.is_floating_point()]
    exact = [value.double() if place in places else value for place, value in enumerate(given)]

    def outputs(*inputs: Any) -> list[Tensor]:
        copies = [value.clone() if isinstance(value, Tensor) else value for value in inputs]
        with one_seed(0):
            given_back = kind.apply(*copies)
        return [value for value in tensors_of(given_back) if value.is_floating_point()]

    with one_seed(1):
        moves = {place: torch.randn_like(exact[place]) for place in places}
        weights = [torch.randn_like(value) for value in outputs(*exact)]
    inputs = [value.requires_grad_() if place in places else value for place, value in enumerate(exact)]
    with torch.enable_grad():
        total = torch.stack([(w * value).sum() for w, value in zip(weights, outputs(*inputs), strict=True)]).sum()
        gradients = torch.autograd.grad(total, [inputs[place] for place in places], allow_unused=True)
    text = ""
    with torch.no_grad():
        for place, gradient in zip(places, gradients, strict=True):
            if gradient is None or not bool(gradient.any()):
                continue
            slopes, length = [], MOVE * float(exact[place].abs().mean().clamp_min(1e-3))
            for step in (length, length / 2):
                ends = []
                for sign in (1, -1):
                    moved = [
                        value + sign * step * moves[place] if at == place else value for at, value in enumerate(exact)
                    ]
                    ends.append(outputs(*moved))
                if _passes(exact[place], step * moves[place], outputs(*exact), ends[0]):
                    return ""
                change = [(w * (a - b)).sum() for w, a, b in zip(weights, *ends, strict=True)]
                slopes.append(float(torch.stack(change).sum()) / (2 * step))
            claimed, size = float((gradient * moves[place]).sum()), max(map(abs, slopes))
            if size <= SMOOTH * abs(claimed) or abs(slopes[0] - slopes[1]) > SMOOTH * size:
                # A surrogate of what has no derivative.
                return ""
            if abs(claimed - slopes[1]) > WRONG * max(size, abs(claimed)):
                text = text or (
                    f"along a direction of input {place + 1}, forward of {kind.__name__} rises by {slopes[1]:.5g}, and "
                    f"its backward says {claimed:.5g}"
                )
    return text


def _passes(given: Tensor, move: Tensor, before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether each number of the output moves as that of the input does, or not at all."""
    for one, two in zip(before, after, strict=True):
        if one.shape == given.shape:
            change = two - one
            still, along = change == 0, (change - move).abs() <= SMOOTH * move.abs()
            if bool((still | along).all()):
                return True
    return False
