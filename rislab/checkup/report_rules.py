"""The loss that a loop reported, held against the raw losses that were heard."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from rislab.checkup.findings import Finding, fault, note
from rislab.checkup.gradient_rules import Declared, near, size_of, taken
from rislab.checkup.rules import Code
from rislab.checkup.trace import Trace, number, units

# Reported losses that forget the windows without a step.
INSIDE = ("summed only when a step is taken", "summed inside the step branch")
Heard = tuple[float, int, float]  # a raw loss, its samples, and the equal parts that it is the mean of


def reported_findings(reported: Sequence[float], seen: Trace, contract: Declared) -> list[Finding]:
    """What is wrong with the reported losses, one an epoch; the first epoch that is wrong speaks for the others."""
    values, losses = list(map(float, reported)), [number(loss) for loss, *_ in seen.losses]
    total, epochs = len(losses), len(values)
    text = f"{epochs} numbers were reported, and {total} losses heard"
    if total and not epochs:
        return [fault(Code.REPORT, "nothing reported", text)]
    if total and contract.epochs not in (None, epochs):
        others = ("only the last micro-batch", *INSIDE)
        return [
            fault(Code.REPORT, "another loss reported", f"{text}, in {contract.epochs} epochs (declared)", "", others)
        ]
    if not total:
        return [note(Code.REPORT, "not judged", text)]
    if any(step.inside for step in seen.steps):
        text = f"{text}, as a closure asks for its loss again and again"
        return _strange(values, losses, seen) or [note(Code.REPORT, "not judged", text)]
    if total % epochs:
        return _strange(values, losses, seen) or [
            note(Code.REPORT, "not judged", f"{text}, which is no multiple of it")
        ]
    length = total // epochs
    short = _cut_short(length, seen, contract)
    if short:
        return short
    eps = torch.finfo(seen.losses[0][0].dtype).eps
    for epoch, value in enumerate(values, start=1):
        heard = [
            (number(loss), samples, parts)
            for loss, samples, parts in seen.losses[(epoch - 1) * length : epoch * length]
        ]
        found = _told(value, heard, epoch, size_of(seen, contract)[0], eps, contract)
        if found is not None:
            return [found]
    return []


def _strange(values: list[float], losses: list[float], seen: Trace) -> list[Finding]:
    """What can be said where nobody knows which losses belong to which epoch."""
    same = [first for first, second in itertools.pairwise(values) if first == second]
    if same and len(seen.still) < seen.tensors:
        return [fault(Code.REPORT, "the same loss again", f"{same[0]!r} in two epochs running, and the weights moved")]
    low, high = min(losses), max(losses)
    # A mean lies between the smallest and the largest, to the rounding of its own sum.
    beyond = [value for value in values if value < low - 1e-4 * abs(low) or value > high + 1e-4 * abs(high)]
    if all(map(math.isfinite, losses)) and beyond:
        text = f"reported {beyond[0]:.6g}, and all losses lie between {low:.6g} and {high:.6g}"
        return [fault(Code.REPORT, "another loss reported", text, "", (*INSIDE, "last over n", "never divided"))]
    return []


def _cut_short(length: int, seen: Trace, contract: Declared) -> list[Finding]:
    """Windows of less than K micro-batches that do not end an epoch of so many micro-batches."""
    size = contract.accumulation_steps
    if size is None or seen.left or any(step.inside for step in seen.steps):
        return []
    place = 0
    for step in taken(seen):
        held = len(units(step, size))
        place += held
        if held < size and place % length and not any(batch.broken for batch in step.micro_batches):
            text = f"a window of {held} within an epoch of {length} micro-batches, K = {size} (declared)"
            return [
                fault(Code.WINDOW_SIZE, "window size", text, step.where, ("window off by one", "step per micro-batch"))
            ]
    return []


def _told(value: float, heard: list[Heard], epoch: int, size: int, eps: float, contract: Declared) -> Finding | None:
    windows = [heard[first : first + size] for first in range(0, len(heard), size)]
    means = [_mean(window) for window in windows]
    losses, samples = [loss for loss, _, _ in heard], [count for _, count, _ in heard]
    weighted, plain = _mean(heard), sum(losses) / len(losses)
    by_parts = _mean([(loss, 0, parts) for loss, _, parts in heard], 2)
    true, other = (weighted, plain) if contract.mean != "batches" else (plain, weighted)
    text = f"reported {value:.6g} in epoch {epoch}, where the losses have the mean {true:.6g}"
    if not math.isfinite(true):
        if not math.isfinite(value):
            return None
        others: tuple[str, ...] = ("NaN written as 0", "only the last micro-batch", *INSIDE)
        return fault(Code.REPORT, "NaN replaced by the running mean", text, "", others)
    # A sum of a thousand losses in the loop's own precision may be off by this much.
    if near(value, true, 100 * eps) or (contract.mean != "batches" and near(value, by_parts, 100 * eps)):
        return None
    digits = next((digits for digits in range(1, 7) if value == round(true, digits)), None)
    if digits is not None:
        return fault(Code.REPORT, "rounded to four digits", f"{text}: {digits} digits after the point are left")
    shares = [sum(count for _, count, _ in window) for window in windows]
    lasts = [(window[-1][0], share, 0.0) for window, share in zip(windows, shares, strict=True)]
    guesses: list[tuple[str, float, tuple[str, ...]]] = [
        ("mean of unequal means", other, ("summed inside the step branch",)),
        ("mean of unequal means", sum(means) / len(means), ("mean of means in the window",)),
        ("last over n", losses[-1] / len(losses), ("loop tail dedented",)),
        ("last over n", means[-1] / len(means), ("loop tail dedented",)),
        ("last over n", losses[-1] / len(means), ("loop tail dedented",)),
        ("only the last micro-batch", losses[-1], ()),
        ("only the last micro-batch", means[-1], ()),
        ("only the last micro-batch", _mean(lasts), ()),
        ("logged after the division", true / size, ("summed inside the step branch",)),
        ("divided on the first batch only", true * size, ("never divided",)),
        ("sum of means over the set's size", sum(losses) / sum(samples), ()),
        ("sum of means over the set's size", sum(means) / sum(samples), ()),
    ]
    for name, guess, aliases in guesses:
        if near(value, guess, 1e-4):
            return fault(Code.REPORT, name, text, "", aliases)
    if value == 0:
        others = ("last over n", "main loss weight 0", "summed only when a step is taken")
        return fault(Code.REPORT, "loop tail in a branch never taken", text, "", others)
    return fault(Code.REPORT, "another loss reported", text, "", (*INSIDE, "last over n", "never divided"))


def _mean(heard: Sequence[Heard], by: int = 1) -> float:
    """Mean of losses that each count so often."""
    return sum(one[0] * one[by] for one in heard) / sum(one[by] for one in heard)
