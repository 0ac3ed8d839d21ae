"""Is the loss smallest at the truth? Asked of torch's own losses by their table, of others by descending on the answer.

A network is not needed for that: the answer itself is moved until the loss falls no more.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning
from rislab.checkup.probes.loss_minima import DISTANCES, SURE, LossCall, LossCalls
from rislab.checkup.probes.probe_batches import map_leaves, tensors_in
from rislab.checkup.probes.probe_target import ProbeTarget
from rislab.checkup.probes.watched_batches import watched_batches
from rislab.checkup.rules import Code

NAME = "the loss is not smallest at the truth"
# A smallest value under this share of an untrained network's loss is one of rounding.
FLOOR = 1e-4
# Of the way from the network's loss to the smallest one: more than this beyond the truth is not due to the descent.
BEYOND = 2e-2
DESCENT_STEPS = 60
# A smaller slope is that of a least or a largest value.
FLAT = 1e-6


@dataclass(frozen=True, eq=False)
class ObservedLoss:
    """The loss of the network as it is."""

    output: Any  # of a copy
    value: float  # of the loss
    calls: list[LossCall]  # of torch's losses that it made
    call: LossCall | None  # the one among them whose result is the loss, None if there is none

    @property
    def of_output(self) -> bool:
        """Whether that call got the output as it is, and not something that was made of it."""
        own = None if self.call is None else self.call.arguments.get("input")
        return any(own is tensor for tensor in tensors_in(self.output).values())


def observe_loss(target: ProbeTarget, batch: Any) -> ObservedLoss:
    """The loss of a copy on a micro-batch, and the losses of torch that it is made of."""
    with LossCalls() as calls:
        output = target.apply(target.copy(), batch)
        value = target.loss_of(output, batch[1])
    call = next((one for one in calls.calls if one.result is value), None)
    return ObservedLoss(output, float(value.detach()), calls.calls, call)


def loss_at_truth(target: ProbeTarget) -> list[Finding]:
    """P2: the loss of a perfect answer, which should be the smallest that there is."""
    code, batch = Code.LOSS_MINIMUM, target.data[0]
    observed = observe_loss(target, batch)
    for call in observed.calls:
        minimum = call.minimum()
        if minimum is not None and minimum.wrong:
            return [as_fault(code, NAME, minimum.wrong, call.where)]
    return [*watched_batches(target), *_at_truth(target, batch, observed)]


def _at_truth(target: ProbeTarget, batch: Any, observed: ObservedLoss) -> list[Finding]:
    code = Code.LOSS_MINIMUM
    if target.perfect is not None:
        return _at_perfect(target, batch, observed)
    minimum = None if observed.call is None else observed.call.minimum()
    if observed.call is None or minimum is None:
        return _at_guess(target, batch, observed)
    if not math.isfinite(minimum.value):
        return [as_note(code, "not judged", f"the smallest value of {observed.call.name} here is {minimum.value}")]
    text = f"the smallest value of {observed.call.name} for this target is {minimum.value:.4g}"
    if observed.value < minimum.value - max(1e-6, 1e-3 * abs(minimum.value)):
        evidence = f"{text}, and that of the network as it is {observed.value:.4g}: its input is none that it takes"
        return [as_fault(code, NAME, evidence, observed.call.where)]
    if observed.call.name in DISTANCES and not observed.of_output:
        return _at_guess(target, batch, observed)
    if minimum.value > FLOOR * abs(observed.value):
        return [as_note(code, "smallest value above 0", f"{text}, and {observed.value:.4g} for the network as it is")]
    return []


def _at_perfect(target: ProbeTarget, batch: Any, observed: ObservedLoss) -> list[Finding]:
    code = Code.LOSS_MINIMUM
    assert target.perfect is not None
    perfect = target.perfect(batch[1])
    least, slope = _loss_and_slope(target, perfect, batch[1])
    text = f"loss {least:.4g} at the perfect answer, and {observed.value:.4g} for the network as it is"
    if not math.isfinite(least) or not math.isfinite(slope):
        return [as_warning(code, "NaN at the perfect answer", f"{text}; the gradient there has norm {slope:.4g}")]
    lowest, _ = _lowest(target, batch[1], [perfect, observed.output])
    if _undercut(least, lowest, observed.value):
        evidence = f"{text}; other answers have {lowest:.4g}"
        return [as_fault(code, NAME, evidence, "", ("loaded on one side", "normalised by the prediction"))]
    if least > FLOOR * abs(observed.value):
        return [as_note(code, "smallest value above 0", f"{text}; no answer with less was found")]
    return []


def _at_guess(target: ProbeTarget, batch: Any, observed: ObservedLoss) -> list[Finding]:
    """Without a perfect answer that is known: some that are likely, of which none may prove a fault."""
    code = Code.LOSS_MINIMUM
    output, truth = observed.output, batch[1]
    likely = _likely_answers(output, truth)
    if not likely:
        return [as_note(code, "not judged", "what a perfect network would put out is not known: give `perfect`")]
    values = [_loss_and_slope(target, one, truth) for one in likely]
    lowest, at = _lowest(target, truth, [*likely, output])
    text = f"loss {values[0][0]:.4g} where the answer is the target, {observed.value:.4g} for the network as it is"
    is_distance = len(likely) == 1
    if is_distance and not math.isfinite(values[0][1]) and not _undercut(values[0][0], lowest, observed.value):
        return [
            as_warning(code, "NaN at the perfect answer", f"{text}; the gradient there has norm {values[0][1]:.4g}")
        ]
    if not all(_undercut(value, lowest, observed.value) for value, _ in values):
        return []
    evidence = f"{text}; other answers have {lowest:.4g}"
    # A loss that falls without end may be meant, unless the target is where it is largest.
    endless = not math.isfinite(lowest) and values[0][1] > FLAT
    if not is_distance or endless:
        return [as_note(code, "not judged", "which answer is perfect for this target is not known: give `perfect`")]
    if lowest <= 1e-3 * abs(observed.value) and at is not None and _is_rescaled(at, truth):
        return [as_note(code, "not judged", f"{evidence}, at a multiple of the target: give `perfect`")]
    aliases = ("loaded on one side", "normalised by the prediction")
    return [as_warning(code, NAME, f"{evidence}; give `perfect` if the target is not the perfect answer", "", aliases)]


def _likely_answers(output: Any, truth: Any) -> list[Tensor]:
    """Answers that may be perfect; one alone if the target can hardly stand for anything but itself."""
    if not isinstance(output, Tensor) or not isinstance(truth, Tensor) or not truth.numel():
        return []
    if output.shape == truth.shape and output.is_complex() == truth.is_complex():
        exact = truth.to(output.dtype)
        if truth.is_complex():
            return [exact]
        signs, shares = bool((truth.abs() == 1).all()), bool(((truth >= 0) & (truth <= 1)).all())
        counts = bool(((truth >= 0) & (truth == truth.round())).all())
        likely = [exact]
        likely += [SURE * exact] if signs else []
        likely += [(exact / (1 - exact)).log().clamp(-SURE, SURE)] if shares else []
        likely += [exact.clamp_min(math.exp(-SURE)).log()] if shares or counts else []
        return likely
    if output.dim() == truth.dim() + 1 and not truth.is_floating_point() and output.dim() > 1:
        likely = []
        for dimension in {1, output.dim() - 1}:
            others = [*output.shape[:dimension], *output.shape[dimension + 1 :]]
            if others == [*truth.shape] and int(truth.max()) < output.shape[dimension]:
                right = functional.one_hot(truth.clamp(min=0).long(), output.shape[dimension]).to(output.dtype)
                right = right.movedim(-1, dimension)
                likely += [SURE * right, right, functional.log_softmax(SURE * right, dim=dimension)]
        return likely
    return []


def _is_rescaled(answer: Tensor, truth: Tensor) -> bool:
    """Whether an answer is a · target + b with an a other than 1, as where a loss undoes a normalisation."""
    if answer.is_complex():
        return False
    y, x = answer.detach().double().flatten(), truth.double().flatten()
    centred = x - x.mean()
    slope = float((centred @ (y - y.mean())) / centred.square().sum().clamp_min(1e-300))
    rest = y - y.mean() - slope * centred
    return abs(slope - 1) > 1e-2 and float(rest.norm()) <= 1e-2 * float((y - y.mean()).norm())


def _undercut(value: float, lowest: float, usual: float) -> bool:
    """Whether a loss is above the lowest by more than a descent may miss."""
    if not math.isfinite(value) or lowest == -math.inf:
        return True
    return value - lowest > max(BEYOND * abs(usual - lowest), FLOOR * abs(usual), 1e-9)


def _loss_and_slope(target: ProbeTarget, output: Any, truth: Any) -> tuple[float, float]:
    """The loss of an output, and the norm of its gradient there."""
    moved, leaves = _movable(output)
    value = target.repeated_loss(moved, truth)
    if not leaves or not value.requires_grad:
        return float(value.detach()), 0.0
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    squares = [float(one.abs().double().square().sum()) for one in gradients if one is not None]
    return float(value.detach()), math.sqrt(sum(squares)) if all(map(math.isfinite, squares)) else math.nan


def _movable(output: Any) -> tuple[Any, list[Tensor]]:
    """An output of its own, with the tensors in it that can be moved."""
    leaves: list[Tensor] = []

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        own = leaf.detach().clone()
        if own.is_floating_point() or own.is_complex():
            leaves.append(own.requires_grad_())
        return own

    return map_leaves(output, move), leaves


def _lowest(target: ProbeTarget, truth: Any, starts: list[Any]) -> tuple[float, Tensor | None]:
    """The lowest loss that descents from some answers reach, and the answer, if it is one tensor."""
    lowest: tuple[float, Tensor | None] = (math.inf, None)
    for start in starts:
        value, at = descend(target, start, truth)
        if value < lowest[0]:
            lowest = value, at
    return lowest


def descend(target: ProbeTarget, output: Any, truth: Any) -> tuple[float, Tensor | None]:
    """The lowest loss on a way down from an output, a tensor or nested ones, and where it is."""
    moved, leaves = _movable(output)
    best: list[Any] = [math.inf, None]
    if not leaves:
        return math.inf, None
    search = torch.optim.LBFGS(leaves, max_iter=DESCENT_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value = target.repeated_loss(moved, truth)
        if float(value.detach()) < best[0]:
            best[:] = [float(value.detach()), leaves[0].detach().clone() if len(leaves) == 1 else None]
        if value.requires_grad:
            value.backward()
        return value.detach()

    # A descent may leave the answers for which the loss is defined; what it found until then counts.
    with suppress(RuntimeError, ValueError, IndexError):
        search.step(closure)
    return best[0], best[1]
