"""Each optimiser step beside its window of micro-batches, computed once; the rules of the checkup read from it.

The gradient g that the optimiser got is compared with the true gradient r of the window: α = ⟨g,r⟩/⟨r,r⟩ and their
cosine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rislab.checkup.recording.gradients import (
    GRADIENT_TOLERANCES,
    GradientComparison,
    compare_gradients,
    length_of,
)
from rislab.checkup.recording.trace import STEPPED, MicroBatch, Step, Trace

# Least squares tells micro-batches apart only where their gradients are not nearly one: condition of their Gram matrix.
CONDITION = 1e8
# A gradient of which more than this share is left over is no sum of the micro-batches' gradients.
UNEXPLAINED = 0.25
# A weight that is read off may be this far from the one that names a fault.
LOOSE = 0.05


@dataclass(frozen=True)
class Declared:
    """What a loop is meant to do.

    Args:
        accumulation_steps: K, None if not declared.
        mean: "samples" or "batches", whichever count equally in a window; "" if not declared.
        clip_norm: largest gradient norm, None if not declared.
        scaler: whether the gradient scaler is enabled, None if there is none.
        scheduler: whether there is one.
        scheduler_interval: "step" or "epoch", at which it is to tick; "" if not declared.
        epochs: how many, None if not declared.
        divides: the library that divides each loss by K, "" if the loop does it itself.
        counted: whether each sum over items is to be divided by the items of its window, and by nothing else.
    """

    accumulation_steps: int | None = None
    mean: str = "samples"
    clip_norm: float | None = None
    scaler: bool | None = None
    scheduler: bool = False
    scheduler_interval: str = ""
    epochs: int | None = None
    divides: str = ""
    counted: bool = False


@dataclass(eq=False)
class StepWindow:
    """The micro-batches of a step that was taken."""

    step: Step  # as recorded
    batches: list[MicroBatch]
    shares: list[float]  # with which each should count; they add up to 1
    # Gradient of the window; None if one of its micro-batches is not known, or if it is no longer needed.
    true: Tensor | None

    @property
    def number(self) -> int:
        """Of the step, from 1."""
        return self.step.number

    @property
    def size(self) -> int:
        """Micro-batches in the window."""
        return len(self.batches)

    @property
    def gradient(self) -> Tensor:
        """What the optimiser got."""
        assert self.step.gradient is not None
        return self.step.gradient

    @property
    def complete(self) -> bool:
        """Whether both gradients are known, and kept, of one length."""
        return self.true is not None and self.step.gradient is not None and self.true.shape == self.gradient.shape

    @property
    def held_weights(self) -> list[float]:
        """How much each micro-batch counts by what the loop gave it; 0 for one that was zeroed."""
        return [batch.weight if self.step.holds(batch) else 0.0 for batch in self.batches]

    def over_shares(self, weights: Sequence[float]) -> list[float] | None:
        """Weights of its micro-batches over their shares; None if one holds nothing that could count."""
        return (
            [weight / share for weight, share in zip(weights, self.shares, strict=True)] if all(self.shares) else None
        )

    @property
    def precision(self) -> str:
        """The coarsest among its micro-batches."""
        return max((batch.precision for batch in self.batches), key=list(GRADIENT_TOLERANCES).index)

    @property
    def tolerance(self) -> float:
        """Largest relative error that is rounding."""
        return GRADIENT_TOLERANCES[self.precision][0]


@dataclass(eq=False)
class StepComparison(StepWindow):
    """A step compared with its window; `true` is times `scale` if the loss is scale-free."""

    comparison: GradientComparison  # of the step's gradient with it
    scale_free: bool  # whether only the direction can be compared
    scale: float  # that the loop gave its loss, 1 if it is not scale-free
    true_norm: float  # norm of `true`, in all coordinates

    @property
    def expected(self) -> Tensor:
        """What the optimiser should have got."""
        assert self.true is not None
        return self.true

    @property
    def alpha(self) -> float:
        """α against the mean of the window's losses if they are means, else against whatever the loop made of them."""
        means = not any(batch.scale_free or batch.term_weights for batch in self.batches)
        return self.comparison.alpha * (self.scale if means else 1.0)

    def exact(self) -> bool:
        """Whether the step's gradient is that of the window, within the tolerances of its precision."""
        relative, alpha = GRADIENT_TOLERANCES[self.precision]
        return self.comparison.relative_error <= relative and abs(self.comparison.alpha - 1) <= alpha

    def parallel(self) -> bool:
        """Whether the step's gradient has at least the direction of the window's."""
        return is_parallel(self.comparison, self.tolerance)

    def numbers(self) -> str:
        """α, cosine and window, in words."""
        return (
            f"α = {self.comparison.alpha:.4g}, cosine {self.comparison.cosine:.4f} at step {self.number}, "
            f"window of {self.size}"
        )


@dataclass(frozen=True, eq=False)
class WatchedRun:
    """All that a rule may look at; see watched_run()."""

    trace: Trace  # as recorded
    declared: Declared  # what the loop is meant to do
    reported: Sequence[float] | None  # its training losses, one an epoch; None if they were not given
    # Those whose losses came before them, as those of a closure do not; each with its micro-batches.
    steps: list[tuple[Step, list[MicroBatch]]]
    windows: list[StepWindow]  # of the steps that were taken
    comparisons: list[StepComparison]  # of the steps of which both gradients are known
    size: int  # micro-batches in a window, K
    source: str  # where K comes from, in words

    @property
    def begins_off_by_one(self) -> bool:
        """Whether the first window holds one micro-batch, the second K, and most windows more than one."""
        sizes = [window.size for window in self.windows]
        return len(sizes) > 1 and sizes[0] == 1 and sizes[1] == self.size > 1 and sizes.count(1) <= len(sizes) / 2


def watched_run(trace: Trace, declared: Declared, reported: Sequence[float] | None = None) -> WatchedRun:
    """What was recorded, with its windows and comparisons.

    Args:
        trace: of one optimiser.
        declared: what the loop is meant to do.
        reported: the training losses that the loop reported, one an epoch; None if they are not known.
    """
    size, source = declared.accumulation_steps, "declared"
    steps = [(step, micro_batches_of(step, step.micro_batches, size)) for step in trace.steps if not step.evaluation]
    windows: list[StepWindow] = [
        step.comparison or step_window(step, step.micro_batches, declared, trace.loss_declared)
        for step in trace.steps
        if step.applied and step.micro_batches
    ]
    if size is None:
        sizes = Counter(len(batches) for step, batches in steps if step.micro_batches) + trace.merged.sizes
        del sizes[0]
        size, source = (sizes.most_common(1)[0][0] if sizes else 1), "as most windows have it"
    comparisons = [window for window in windows if isinstance(window, StepComparison)]
    return WatchedRun(trace, declared, reported, steps, windows, comparisons, size, source)


def compare_steps(trace: Trace, declared: Declared) -> list[StepComparison]:
    """All steps of which the gradient of the window and that of the optimiser are known, each compared."""
    return watched_run(trace, declared).comparisons


def step_window(step: Step, micro_batches: list[MicroBatch], declared: Declared, loss_declared: bool) -> StepWindow:
    """A step with those of its micro-batches that count as training; a StepComparison if both gradients are known."""
    batches = micro_batches_of(step, micro_batches, declared.accumulation_steps)
    window = StepWindow(step, batches, *_window_gradient(batches, declared.mean))
    if not step.applied or not window.complete or window.true is None:
        return window
    true_norm = length_of(window.true)
    if not 0 < true_norm < math.inf:
        return window
    scale_free = not loss_declared or any(batch.scale_free or batch.term_weights for batch in batches)
    scale = sum(batch.weight for batch in batches) if scale_free else 1.0
    # A negative scale is no mistake: the loss may be one to be maximised.
    true = scale * window.true if scale not in (0, 1) else window.true
    ratio = step.norm / step.length if step.length > 0 and math.isfinite(step.norm) else 1.0
    comparison = compare_gradients(window.gradient, true, true_norm if true is window.true else None)
    return StepComparison(
        step, batches, window.shares, true, comparison, scale_free, scale, true_norm * abs(scale or 1) * ratio
    )


def _window_gradient(batches: Sequence[MicroBatch], mean: str) -> tuple[list[float], Tensor | None]:
    """The share of each micro-batch, and the true gradient of the window, None if one of them is not known."""
    if len(batches) == 1:
        return [1.0], batches[0].gradient
    counts = [batch.count for batch in batches]
    # Each sample of a sum counts once already.
    equal = mean == "batches" or sum(counts) <= 0 or (not mean and all(batch.scale_free for batch in batches))
    shares = [1 / len(batches) if equal else count / sum(counts) for count in counts]
    known = [batch.gradient for batch in batches if batch.gradient is not None]
    if not batches or len(known) < len(batches) or len({gradient.shape for gradient in known}) > 1:
        return shares, None
    return shares, torch.stack([share * gradient for share, gradient in zip(shares, known, strict=True)]).sum(dim=0)


def micro_batches_of(step: Step, micro_batches: Sequence[MicroBatch], size: int | None) -> list[MicroBatch]:
    """The micro-batches of a step, with several losses of one micro-batch joined to one; a declared window has so many.

    Losses that one backward came to are terms of one loss. Losses of different lines of the loop are terms as well,
    unless everything that one line gave was thrown away, as a discriminator throws away what the generator's loss gave.
    """
    # Where optimisers take turns, what another one has stepped on is zeroed, and no part of this window.
    own = [batch for batch in micro_batches if step.holds(batch) or not _stepped_on(batch)]
    by_backward: dict[tuple[str, int], list[MicroBatch]] = {}
    for batch in own or micro_batches:
        key = ("alone", id(batch)) if batch.last is None else ("together", batch.last.number)
        by_backward.setdefault(key, []).append(batch)
    groups: list[MicroBatch] = []
    for batches in by_backward.values():
        # A window may as well be summed up first, and have one backward.
        summed = size is not None and 1 < len(batches) <= size and len({batch.call_stack for batch in batches}) == 1
        groups += batches if summed or len(batches) == 1 else [_joined(batches)]
    by_line: dict[tuple[object, ...], list[MicroBatch]] = {}
    for batch in groups:
        by_line.setdefault(_line_of(batch, groups), []).append(batch)
    if len(by_line) == 1:
        return _by_forward(groups) if size and len(groups) > size == len(_forwards_of(groups)) else groups
    held = {line: [step.holds(batch) for batch in batches] for line, batches in by_line.items()}
    if any(all(marks) for marks in held.values()):
        by_line = {line: batches for line, batches in by_line.items() if any(held[line])}
    if len({len(batches) for batches in by_line.values()}) == 1 and len(by_line) > 1:
        return [_joined(terms) for terms in zip(*by_line.values(), strict=True)]
    selected = [batch for batch in groups if _line_of(batch, groups) in by_line]
    return selected if len(by_line) == 1 else [replace(batch, scale_free=True) for batch in selected]


def _forwards_of(batches: Sequence[MicroBatch]) -> set[int]:
    """The forwards that came last before some losses."""
    return {batch.forward for batch in batches}


def _by_forward(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Losses of one line, those of one forward joined to one: its terms have a backward each."""
    by_forward: dict[int, list[MicroBatch]] = {}
    for batch in batches:
        by_forward.setdefault(batch.forward, []).append(batch)
    if len({len(terms) for terms in by_forward.values()}) > 1:
        return [*batches]
    return [_joined(terms) for terms in by_forward.values()]


def _stepped_on(batch: MicroBatch) -> bool:
    return batch.last is not None and STEPPED in batch.last.reached


def _line_of(batch: MicroBatch, others: Sequence[MicroBatch]) -> tuple[object, ...]:
    """The line of a loss, its kind, and the optimisers that its backward came to: several heads may share a line."""
    # A loss without a backward is one of those of its line.
    same = (one.last for one in (batch, *others) if one.call_stack == batch.call_stack and one.last is not None)
    last = next(same, None)
    reached = set() if last is None else last.reached
    return batch.call_stack, batch.kind, frozenset() if 0 in reached else frozenset(reached - {STEPPED})


def _joined(batches: Sequence[MicroBatch]) -> MicroBatch:
    """Several losses of one micro-batch as one, each with the weight that the loop gave it."""
    weight = sum(batch.weight for batch in batches) or 1.0
    known = [(batch.weight / weight, batch.gradient) for batch in batches if batch.gradient is not None]
    complete = len(known) == len(batches) and len({len(gradient) for _, gradient in known}) == 1
    return replace(
        batches[0],
        loss=sum(batch.loss for batch in batches),
        gradient=torch.stack([share * gradient for share, gradient in known]).sum(dim=0) if complete else None,
        why=next((batch.why for batch in batches if batch.why), ""),
        nonfinite=any(batch.nonfinite for batch in batches),
        scale_free=any(batch.scale_free for batch in batches),
        backwards=max(batch.backwards for batch in batches),
        weight=weight,
        last=max((one.last for one in batches if one.last is not None), key=lambda one: one.number, default=None),
        term_weights=tuple(term for batch in batches for term in batch.term_weights or (batch.weight,)),
        term_factors=tuple(term for batch in batches for term in batch.term_factors),
        term_divisors=tuple(term for batch in batches for term in batch.term_divisors),
    )


def micro_batch_weights(window: StepWindow) -> list[float] | None:
    """How often each micro-batch counts in the step; 1 is its exact share, None if it cannot be told.

    These are the loop's own weights if they explain what the optimiser got, else those of least squares.
    """
    held = window.held_weights
    if not window.complete:
        # Gradients that are no longer kept were found right.
        exact = isinstance(window, StepComparison) and window.exact()
        return window.over_shares(held) if exact else None
    # [m, parameters]
    known = torch.stack([batch.gradient for batch in window.batches if batch.gradient is not None]).double()
    given = (torch.tensor(held, dtype=torch.float64)[:, None] * known).sum(dim=0)
    if float((given - window.gradient.double()).norm()) <= window.tolerance * float(given.norm()):
        return window.over_shares(held)
    columns = torch.tensor(window.shares, dtype=torch.float64)[:, None] * known
    lengths = columns.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()) or not bool(torch.isfinite(columns).all()):
        return None
    unit = columns / lengths
    gram = unit @ unit.mT  # [m, m]
    if float(torch.linalg.cond(gram)) > CONDITION:
        return None
    weights = torch.linalg.solve(gram, unit @ window.gradient.double()) / lengths[:, 0]
    rest = window.gradient.double() - weights @ columns
    if float(rest.norm()) > UNEXPLAINED * float(window.gradient.norm()):
        return None
    return [float(weight) for weight in weights]


def extra_micro_batches(window: StepWindow, size: int) -> list[float] | None:
    """How often the micro-batches before the last K of a window count in its step; None if it cannot be told."""
    if not window.complete or window.size <= size:
        return None
    weights = micro_batch_weights(window)
    return None if weights is None else weights[: window.size - size]


def is_parallel(comparison: GradientComparison, tolerance: float) -> bool:
    """Whether two gradients have one direction; the cosine itself is not rounded better than 1e-14."""
    return comparison.cosine >= 1 - max(tolerance**2, 1e-14)


def near(value: float, wanted: float, relative: float = LOOSE) -> bool:
    """Whether a value is within a share of another."""
    return math.isfinite(wanted) and abs(value - wanted) <= relative * abs(wanted)
