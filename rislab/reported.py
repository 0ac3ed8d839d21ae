"""The loss that a loop reported, held against the raw losses that were heard."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rislab.deliveries import Contract, near, size_of
from rislab.finding import Finding, fault, note
from rislab.testimony import Testimony, number

# Reported losses that forget the windows without a step.
INSIDE = ("summed only when a step is taken", "summed inside the step branch")
Heard = tuple[float, int, float]  # a raw loss, its samples, and the equal parts that it is the mean of


def reported_findings(reported: Sequence[float], seen: Testimony, contract: Contract) -> list[Finding]:
    """What is wrong with the reported losses, one an epoch; the first epoch that is wrong speaks for the others."""
    total, epochs = len(seen.losses), len(reported)
    if not total or not epochs or total % epochs:
        text = f"{epochs} numbers were reported, and {total} losses heard, which is no multiple of it"
        return [note("C14", "not judged", text)]
    length = total // epochs
    eps = torch.finfo(seen.losses[0][0].dtype).eps
    for epoch, value in enumerate(map(float, reported), start=1):
        heard = [
            (number(loss), samples, parts)
            for loss, samples, parts in seen.losses[(epoch - 1) * length : epoch * length]
        ]
        found = _told(value, heard, epoch, size_of(seen, contract)[0], eps, contract)
        if found is not None:
            return [found]
    return []


def _told(value: float, heard: list[Heard], epoch: int, size: int, eps: float, contract: Contract) -> Finding | None:
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
        return fault("C14", "NaN replaced by the running mean", text, "", others)
    # A sum of a thousand losses in the loop's own precision may be off by this much.
    if near(value, true, 100 * eps) or (contract.mean != "batches" and near(value, by_parts, 100 * eps)):
        return None
    digits = next((digits for digits in range(1, 7) if value == round(true, digits)), None)
    if digits is not None:
        return fault("C14", "rounded to four digits", f"{text}: {digits} digits after the point are left")
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
            return fault("C14", name, text, "", aliases)
    if value == 0:
        others = ("last over n", "main loss weight 0", "summed only when a step is taken")
        return fault("C14", "loop tail in a branch never taken", text, "", others)
    return fault("C14", "another loss reported", text, "", (*INSIDE, "last over n", "never divided"))


def _mean(heard: Sequence[Heard], by: int = 1) -> float:
    """Mean of losses that each count so often."""
    return sum(one[0] * one[by] for one in heard) / sum(one[by] for one in heard)
