"""The rule about the loss that a loop reported: it is compared with the raw losses that were recorded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning
from rislab.checkup.recording.merged_steps import Loss
from rislab.checkup.recording.windows import WatchedRun, near
from rislab.checkup.rules import Code

# Reported losses that forget the windows without a step.
STEP_BRANCH = ("summed only when a step is taken", "summed inside the step branch")
SAMPLES, PARTS = 1, 2  # places in a Loss


def reported_loss(run: WatchedRun) -> list[Finding]:
    """What is wrong with the reported losses, one an epoch; the first epoch that is wrong speaks for the others."""
    if run.reported is None:
        return []
    values, losses = list(map(float, run.reported)), run.trace.raw_losses()
    total, epochs = len(losses), len(values)
    text = f"{epochs} numbers were reported, and {total} losses recorded"
    if total and not epochs:
        return [as_fault(Code.REPORT, "nothing reported", text)]
    if total and run.declared.epochs not in (None, epochs):
        text = f"{text}, in {run.declared.epochs} epochs (declared)"
        name = "fewer losses than epochs" if epochs < run.declared.epochs else "more losses than epochs"
        return [as_fault(Code.REPORT, name, text, "", ("another loss reported", *STEP_BRANCH))]
    if not total:
        return [as_note(Code.REPORT, "not judged", text)]
    if any(step.evaluation for step in run.trace.steps):
        text = f"{text}, as a closure asks for its loss again and again"
        return _impossible(values, losses, run) or [as_note(Code.REPORT, "not judged", text)]
    if total % epochs:
        text = f"{text}, which is no multiple of it"
        return _impossible(values, losses, run) or [as_note(Code.REPORT, "not judged", text)]
    length = total // epochs
    short = _window_within_an_epoch(length, run)
    if short:
        return short
    for epoch, value in enumerate(values, start=1):
        finding = _wrong_value(value, losses[(epoch - 1) * length : epoch * length], epoch, run)
        if finding is not None:
            return [finding]
    return []


def _impossible(values: list[float], losses: list[Loss], run: WatchedRun) -> list[Finding]:
    """Values that are wrong whichever losses belong to which epoch."""
    same = [first for first, second in itertools.pairwise(values) if first == second]
    if same and len(run.trace.unchanged) < run.trace.tensors:
        text = f"{same[0]!r} in two epochs running, and the weights moved"
        return [as_fault(Code.REPORT, "the same loss again", text)]
    raw = [loss for loss, *_ in losses]
    low, high = min(raw), max(raw)
    # A mean lies between the smallest and the largest, to the rounding of its own sum.
    beyond = [value for value in values if value < low - 1e-4 * abs(low) or value > high + 1e-4 * abs(high)]
    if all(map(math.isfinite, raw)) and beyond:
        text = f"reported {beyond[0]:.6g}, and all losses lie between {low:.6g} and {high:.6g}"
        return [_another_loss(text, run)]
    return []


def _another_loss(text: str, run: WatchedRun) -> Finding:
    """A fault; a warning where the loss was not declared, and is a sum of which a part may be reported."""
    summed = not run.trace.loss_declared and any(batch.terms > 1 for batch in run.trace.micro_batches)
    return (as_warning if summed else as_fault)(
        Code.REPORT, "another loss reported", text, "", ("summed inside the step branch", "last over n")
    )


def _window_within_an_epoch(length: int, run: WatchedRun) -> list[Finding]:
    """Windows of less than K micro-batches that do not end an epoch of so many micro-batches."""
    size, trace = run.declared.accumulation_steps, run.trace
    if size is None or trace.left or any(step.evaluation for step in trace.steps):
        return []
    place = 0
    stored = {step.number: (step, batches) for step, batches in run.steps}
    for number, numbers in enumerate(trace.numbers(), start=1):
        # The others are merged, as many of their kind came before.
        step, batches = stored.get(number, (None, ()))
        place += numbers.losses if step is None else len(batches)
        short = step is not None and len(batches) < size and place % length
        if step is not None and short and not any(batch.nonfinite for batch in step.micro_batches):
            text = f"a window of {len(batches)} within an epoch of {length} micro-batches, K = {size} (declared)"
            aliases = ("window off by one", "step per micro-batch")
            return [as_fault(Code.WINDOW_SIZE, "window size", text, step.where, aliases)]
    return []


def _wrong_value(value: float, losses: list[Loss], epoch: int, run: WatchedRun) -> Finding | None:
    """The finding for a value that is not the mean of its epoch, None if it is."""
    per_sample, per_batch = _mean(losses), sum(loss for loss, *_ in losses) / len(losses)
    true, other = (per_sample, per_batch) if run.declared.mean != "batches" else (per_batch, per_sample)
    text = f"reported {value:.6g} in epoch {epoch}, where the losses have the mean {true:.6g}"
    if not math.isfinite(true):
        if not math.isfinite(value):
            return None
        aliases: tuple[str, ...] = ("summed inside the step branch", "only the last micro-batch")
        if near(value, _without_lost_windows(losses, run.size), 1e-4):
            aliases = ("summed only when a step is taken", "NaN written as 0")
        return as_fault(Code.REPORT, "NaN replaced by the running mean", text, "", aliases)
    # A sum of a thousand losses in the loop's own precision may be off by this much.
    rounding = 100 * torch.finfo(run.trace.micro_batches[0].dtype).eps
    by_parts = run.declared.mean != "batches" and near(value, _mean(losses, PARTS), rounding)
    summed = all(count == 1 != samples for _, samples, count in losses)
    by_parts |= summed and near(
        value, sum(loss for loss, *_ in losses) / sum(count for _, count, _ in losses), rounding
    )
    if near(value, true, rounding) or by_parts:
        return None
    digits = next((digits for digits in range(1, 7) if value == round(true, digits)), None)
    if digits is not None:
        evidence = f"{text}: {digits} digits after the point are left"
        return as_fault(Code.REPORT, "rounded to four digits", evidence)
    for name, guess, aliases in _guesses(losses, true, other, run.size):
        if near(value, guess, 1e-4):
            return as_fault(Code.REPORT, name, text, "", aliases)
    if value == 0:
        # With backwards, only what adds the losses up was left out.
        names = ("loop tail in a branch never taken", "another loss reported")
        first, second = names[::-1] if run.trace.backwards else names
        return as_fault(Code.REPORT, first, text, "", (second, "last over n", STEP_BRANCH[0]))
    return _another_loss(text, run)


def _without_lost_windows(losses: list[Loss], size: int) -> float:
    """The mean of losses in which each window counts as 0 that holds one which is no number."""
    windows = [losses[first : first + size] for first in range(0, len(losses), size)]
    finite = [loss for window in windows if all(math.isfinite(value) for value, *_ in window) for loss in window]
    return sum(loss[0] * loss[SAMPLES] for loss in finite) / sum(loss[SAMPLES] for loss in losses)


def _guesses(losses: list[Loss], true: float, other: float, size: int) -> list[tuple[str, float, tuple[str, ...]]]:
    """What each fault would report: its name, the value, and the names of faults that report the same."""
    windows = [losses[first : first + size] for first in range(0, len(losses), size)]
    means = [_mean(window) for window in windows]
    raw, samples = [loss for loss, *_ in losses], [count for _, count, _ in losses]
    several = len(windows) > 1
    lasts = [(window[-1][0], sum(count for _, count, _ in window), 0.0) for window in windows]
    return [
        ("mean of unequal means", other, ("summed inside the step branch",)),
        ("mean of unequal means", sum(means) / len(means), ("mean of means in the window",)),
        ("last over n", raw[-1] / len(raw), ("backward after the batch loop",)),
        *(
            [
                ("last over n", means[-1] / len(means), ("backward after the batch loop",)),
                ("last over n", raw[-1] / len(means), ("backward after the batch loop",)),
            ]
            if several
            else []
        ),
        ("only the last micro-batch", raw[-1], ()),
        ("only the last micro-batch", means[-1], ()),
        ("only the last micro-batch", _mean(lasts), ()),
        ("logged after the division", true / size, ("summed inside the step branch",)),
        # K times the mean, as of losses that are added up over a window, divided there or not.
        ("another loss reported", true * size, ("never divided", "divided on the first batch only")),
        ("sum of means over the set's size", sum(raw) / sum(samples), ()),
        ("sum of means over the set's size", sum(means) / sum(samples), ()),
    ]


def _mean(losses: Sequence[Loss], by: int = SAMPLES) -> float:
    """Mean of losses, each counted with its samples or its parts."""
    return sum(loss[0] * loss[by] for loss in losses) / sum(loss[by] for loss in losses)
