"""Clipping: gradients that were made shorter after the backwards, all together, number by number or in parts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rislab.checkup.findings import Finding, as_fault
from rislab.checkup.recording.gradients import compare_gradients
from rislab.checkup.recording.windows import StepComparison, WatchedRun, near
from rislab.checkup.rules import Code

# Other steps whose factors are looked at.
OTHERS = 8


def limit_of(one: StepComparison, run: WatchedRun) -> float | None:
    """The declared limit of the norm, else that with which clip_grad_norm_() was called; None without one."""
    if run.declared.clip_norm is not None:
        return run.declared.clip_norm
    limits = [clip.max_norm for clip in one.step.clips if clip.own and not clip.late]
    return limits[-1] if limits else None


def is_clipped(one: StepComparison, run: WatchedRun) -> bool:
    """Whether a shorter gradient is what declared, or evident, clipping makes of it."""
    length, true, limit = norm_of(one), one.true_norm, limit_of(one, run)
    relative = max(1e-4, one.tolerance)
    if limit is not None:
        joint = one.step.other_norm > 0 and abs(_joint_norm(one) - limit) <= relative * limit
        return one.parallel() and (joint or abs(length - min(true, limit)) <= relative * length)
    if not one.parallel() or is_cut_off(one):
        return is_cut_off(one)
    evident = _one_length(one, run, norm_of) or (one.step.other_norm > 0 and _one_length(one, run, _joint_norm))
    return evident and not (one.step.scale > 1 and length * one.step.scale > 1e-2 and length < 1e-2)


def is_cut_off(one: StepComparison) -> bool:
    """Whether larger numbers of the true gradient were clipped by value, which no factor explains as well."""
    largest = float(one.gradient.abs().max()) if one.complete else 0.0
    error = compare_gradients(one.gradient, one.expected.clamp(-largest, largest)).relative_error if largest else 1.0
    return error <= max(1e-3, one.tolerance) and 2 * error < math.sqrt(max(0.0, 1 - one.comparison.cosine**2))


def _one_length(one: StepComparison, run: WatchedRun, norm: Callable[[StepComparison], float]) -> bool:
    """Whether several different lengths became one: nothing but clipping does that."""
    length, relative = norm(one), max(1e-4, one.tolerance)
    alike = [other for other in run.comparisons if abs(norm(other) - length) <= relative * length]
    spread = [
        norm(other) / other.comparison.alpha for other in alike if not other.exact() and other.comparison.alpha > 0
    ]
    return len(spread) >= 2 and max(spread) > (1 + 10 * relative) * min(spread) and length < min(spread)


def norm_of(one: StepComparison) -> float:
    """Norm of the gradient that the optimiser got."""
    return one.step.norm


def _joint_norm(one: StepComparison) -> float:
    """The same, together with those that other optimisers held."""
    return math.hypot(norm_of(one), one.step.other_norm)


def is_too_long(one: StepComparison, run: WatchedRun) -> bool:
    """Whether the optimiser got the true gradient, where clipping should have made it shorter."""
    limit = run.declared.clip_norm
    if limit is None or one.step.inferred or not one.exact():
        return False
    return norm_of(one) > limit * (1 + max(1e-3, one.tolerance))


def unclipped(one: StepComparison, run: WatchedRun) -> Finding:
    limit = run.declared.clip_norm
    text = f"a gradient of norm {norm_of(one):.4g} reached step {one.number}, clip_norm = {limit} (declared)"
    return as_fault(Code.CLIPPING, "never clipped", text, one.step.where)


def right_after_backward(one: StepComparison) -> bool:
    """Whether the last backward of a window left the gradient that it should."""
    last = one.step.backwards[-1].after if one.step.backwards else None
    return (
        last is not None
        and len(last) == len(one.gradient)
        and compare_gradients(last, one.expected).relative_error <= one.tolerance
    )


def only_shorter(one: StepComparison, run: WatchedRun) -> bool:
    """Whether parts of what the last backward rightly left are made shorter, by other factors in other steps.

    No number is turned or made larger then, and no factor is always the same, as that of a mask is.
    """
    own = _factors(one)
    if own is None:
        return False
    others = [other for other in run.comparisons if other is not one and not other.exact()][:OTHERS]
    known = [factors for other in others if (factors := _factors(other)) is not None and len(factors) == len(own)]
    return any(bool(((own - factors).abs() > 1e-2).any()) for factors in known)


def _factors(one: StepComparison) -> Tensor | None:
    """By which each number of what the last backward rightly left was multiplied; None unless all are from 0 to 1."""
    last = one.step.backwards[-1].after if one.step.backwards and one.complete else None
    if last is None or not right_after_backward(one):
        return None
    factors = torch.where(last == 0, 1.0, one.gradient / last)
    return factors if bool(((factors >= -one.tolerance) & (factors <= 1 + one.tolerance)).all()) else None


def clipped_per_micro_batch(one: StepComparison) -> bool:
    """Whether the gradients were made shorter between two backwards of the window, as by clipping."""
    carried = [backward.carried for backward in one.step.backwards if backward.carried is not None]
    unscaled = [value for value in carried if one.step.scale > 1 and near(value, 1 / one.step.scale)]
    return any(0 < value < 1 for value in carried) and not unscaled
