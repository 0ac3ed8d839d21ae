"""What the optimiser got, step by step, held against the true gradient of the window.

α = ⟨g,r⟩/⟨r,r⟩ compares the gradient g that the optimiser got with the true gradient r of the window, and their cosine
says whether it is the same direction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.checkup.findings import Finding, fault, note, warning
from rislab.checkup.gradients import GRADIENT_TOLERANCES, GradientComparison, compare
from rislab.checkup.rules import Code
from rislab.checkup.trace import MicroBatch, Step, Trace, units

# Least squares tells micro-batches apart only where their gradients are not nearly one: condition of their Gram matrix.
CONDITION = 1e8
# A weight that is read off may be this far from the one that names a fault.
LOOSE = 0.05
# What a step is called whose gradient fits no known fault.
UNNAMED = ("gradient scale", "gradient direction")


@dataclass(frozen=True)
class Declared:
    """What a loop is meant to do.

    Args:
        accumulation_steps: K, None if not declared. mean: "samples", "batches", or "" if not declared.
        clip_norm: largest gradient norm, None if not declared. scaler: whether one scales the loss; None without one.
        scheduler: whether one steps. cadence: "step" or "epoch", at which it does; "" if not declared.
        epochs: how many, None if not declared.
    """

    accumulation_steps: int | None = None
    mean: str = "samples"
    clip_norm: float | None = None
    scaler: bool | None = None
    scheduler: bool = False
    cadence: str = ""
    epochs: int | None = None


def taken(seen: Trace) -> list[Step]:
    """Steps whose losses came before them, as those of a closure do not."""
    return [step for step in seen.steps if not step.inside]


def size_of(seen: Trace, contract: Declared) -> tuple[int, str]:
    """Micro-batches in a window: as declared, else as most steps have it; and which of the two."""
    if contract.accumulation_steps is not None:
        return contract.accumulation_steps, "declared"
    sizes = Counter(len(units(step, None)) for step in taken(seen) if step.micro_batches)
    return (sizes.most_common(1)[0][0] if sizes else 1), "as most windows have it"


@dataclass(frozen=True, eq=False)
class StepComparison:
    """A step held against its window.

    Args:
        step: as seen. number: from 1. batches: its micro-batches. shares: that each should count with.
        true: gradient of the window. comparison: of the step's with it. free: whether only its direction can be judged.
        scale: that the loop gave its loss, and `true` as well where it is free; else 1.
    """

    step: Step
    number: int
    batches: list[MicroBatch]
    shares: list[float]
    true: Tensor
    comparison: GradientComparison
    free: bool
    scale: float = 1.0

    @property
    def alpha(self) -> float:
        """α against the mean of the window's losses, where they are means; else against whatever the loop made."""
        means = not any(batch.free or batch.terms for batch in self.batches)
        return self.comparison.alpha * (self.scale if means else 1.0)

    @property
    def size(self) -> int:
        """Micro-batches in the window."""
        return len(self.batches)

    @property
    def gradient(self) -> Tensor:
        """That the optimiser got."""
        assert self.step.gradient is not None
        return self.step.gradient

    @property
    def precision(self) -> str:
        """The coarsest of the window's."""
        return max((batch.precision for batch in self.batches), key=list(GRADIENT_TOLERANCES).index)

    @property
    def alarm(self) -> float:
        """Largest relative error of rounding."""
        return GRADIENT_TOLERANCES[self.precision][0]

    def exact(self) -> bool:
        """Whether the step's gradient is that of the window, to the alarm levels of its precision."""
        relative, alpha = GRADIENT_TOLERANCES[self.precision]
        return self.comparison.relative_error <= relative and abs(self.comparison.alpha - 1) <= alpha

    def along(self) -> bool:
        """Whether it has at least the direction of the window's."""
        return _parallel(self.comparison, self.alarm)

    def weights(self) -> list[float]:
        """What the loop weighed each micro-batch with, times how many there should be of it; 1 is its exact share."""
        return [batch.weight / share for batch, share in zip(self.batches, self.shares, strict=True)]

    def numbers(self) -> str:
        """α, cosine and window, in words."""
        return (
            f"α = {self.comparison.alpha:.4g}, cosine {self.comparison.cosine:.4f} at step {self.number}, "
            f"window of {self.size}"
        )


def judge(seen: Trace, contract: Declared) -> list[StepComparison]:
    """All steps of which the gradient of the window and that of the optimiser are known."""
    found = []
    for place, step in enumerate(seen.steps, start=1):
        if step.inside or step.gradient is None or not step.micro_batches or not step.applied:
            continue
        batches = units(step, contract.accumulation_steps)
        true, shares = _window(batches, contract.mean)
        if true is None or len(true) != len(step.gradient):
            continue
        if not bool(torch.isfinite(true).all()) or float(true.norm()) == 0:
            continue
        free = not seen.heard or any(batch.free or batch.terms for batch in batches)
        scale = sum(batch.weight for batch in batches) if free else 1.0
        # A loss may be there to be made as large as can be.
        true = scale * true if scale else true
        found.append(StepComparison(step, place, batches, shares, true, compare(step.gradient, true), free, scale))
    return found


def _window(batches: Sequence[MicroBatch], mean: str) -> tuple[Tensor | None, list[float]]:
    """The true gradient of a window, None if one of its micro-batches is not known, and the share of each."""
    counts = [batch.count for batch in batches]
    equal = mean == "batches" or sum(counts) <= 0
    shares = [1 / len(batches) if equal else count / sum(counts) for count in counts]
    if not batches or any(batch.gradient is None for batch in batches):
        return None, shares
    known = [batch.gradient for batch in batches if batch.gradient is not None]
    if len({len(gradient) for gradient in known}) > 1:
        return None, shares
    return torch.stack([share * gradient for share, gradient in zip(shares, known, strict=True)]).sum(dim=0), shares


def gradient_findings(seen: Trace, contract: Declared) -> list[Finding]:
    """What is wrong with the gradients that the optimiser got."""
    found = [*_broken(seen, contract)]
    judged = judge(seen, contract)
    size, source = size_of(seen, contract)
    # Windows that are too long are named as such.
    own = [one for one in judged if one.size <= size or (source != "declared" and size == 1)]
    bent = [one for one in own if not one.exact() and not _clipped(one, judged, contract)]
    erased = [one for one in bent if _own(one) == 0 and not math.isfinite(one.step.around)]
    if erased:
        text = f"{len(erased)} steps on a gradient of 0, as another optimiser's was infinite"
        found.append(note(Code.CLIPPING, "clipped by an infinite norm", text))
    bent = [one for one in bent if one not in erased]
    unheard = [one for one in bent if _partly_heard(one)]
    if unheard:
        text = f"{len(unheard)} of {len(judged)} steps hold the gradient of something besides the loss that was heard"
        found.append(note(Code.GRADIENT_SCALE, "not judged", f"{text}: give watch() the whole loss"))
    bent = [one for one in bent if one not in unheard]
    before = {one.number: one for one in judged}
    named = [_named(one, before.get(one.number - 1), seen, contract) for one in bent]
    named += [
        finding
        for one in own
        if one.free and one not in bent and one not in unheard
        for finding in _weighed(one, judged, seen, contract)
    ]
    named += [_unclipped(one, contract.clip_norm) for one in judged if _too_long(one, contract)]
    # Where one window names its fault, what is left of it in the others says less.
    found += [finding for finding in named if finding.name not in UNNAMED] or named
    if not found and any(not one.exact() for one in own) and contract.clip_norm is None:
        found.append(
            note(Code.CLIPPING, "clipping assumed", "gradients have the direction of their window, and one length")
        )
    return found


def _broken(seen: Trace, contract: Declared) -> list[Finding]:
    """NaN and infinity: stepped on, or made into numbers."""
    found = []
    for place, step in enumerate(seen.steps, start=1):
        if step.inside or not step.applied or step.gradient is None or not step.micro_batches:
            continue
        true, _ = _window(units(step, contract.accumulation_steps), contract.mean)
        if not step.finite:
            text = f"NaN or infinity in the gradient of step {place}, which was taken"
            aliases = ("overflow looked up under a wrong key",)
            if contract.scaler:
                found.append(fault(Code.NAN, "scaler bypassed", text, step.where, aliases))
            else:
                found.append(fault(Code.NAN, "NaN reached a step", text, step.where, ("scaler bypassed", *aliases)))
        elif true is not None and not bool(torch.isfinite(true).all()):
            text = f"the true gradient of step {place} holds NaN or infinity, and the one that was stepped on does not"
            found.append(fault(Code.NAN, "NaN made 0 in the gradient", text, step.where, ("NaN guard in the loop",)))
    return found


def _partly_heard(one: StepComparison) -> bool:
    """Whether the loop's backwards gave more than the losses that were heard, and the optimiser got all of it."""
    delivered = torch.zeros_like(one.gradient)
    missing = False
    events = {batch.last.number: batch.last for batch in one.batches if batch.last is not None}
    for number, event in events.items():
        if event.before is None or event.after is None or len(event.after) != len(delivered):
            return False
        if any(batch.backwards > 1 for batch in one.batches):
            return False
        given = event.after - event.before
        own = [batch for batch in one.batches if batch.last is not None and batch.last.number == number]
        if any(batch.gradient is None or not one.step.kept(batch) for batch in own):
            return False
        mine = torch.stack([batch.weight * batch.gradient for batch in own if batch.gradient is not None]).sum(dim=0)
        missing |= float((given - mine).norm()) > 10 * one.alarm * float(given.norm())
        delivered += given
    return missing and compare(one.gradient, delivered).cosine >= 1 - (10 * one.alarm) ** 2


def _clipped(one: StepComparison, judged: Sequence[StepComparison], contract: Declared) -> bool:
    """Whether a shorter gradient is what declared, or evident, clipping makes of it."""
    length, true = float(one.gradient.norm()), float(one.true.norm())
    relative = max(1e-4, one.alarm)
    if contract.clip_norm is not None:
        joint = one.step.around > 0 and abs(_joint(one) - contract.clip_norm) <= relative * contract.clip_norm
        return one.along() and (joint or abs(length - min(true, contract.clip_norm)) <= relative * length)
    if not one.along():
        largest = float(one.gradient.abs().max())
        return largest > 0 and torch.allclose(
            one.gradient, one.true.clamp(-largest, largest), rtol=10 * relative, atol=relative * largest
        )
    evident = _evident(one, judged, _own) or (one.step.around > 0 and _evident(one, judged, _joint))
    return evident and not (one.step.scale > 1 and length * one.step.scale > 1e-2 and length < 1e-2)


def _evident(
    one: StepComparison, judged: Sequence[StepComparison], length_of: Callable[[StepComparison], float]
) -> bool:
    """Whether one length was made out of several different ones: nothing but clipping does that."""
    length, relative = length_of(one), max(1e-4, one.alarm)
    alike = [other for other in judged if abs(length_of(other) - length) <= relative * length and not other.exact()]
    spread = [length_of(other) / other.comparison.alpha for other in alike if other.comparison.alpha > 0]
    return len(spread) >= 2 and max(spread) > (1 + 10 * relative) * min(spread) and length < min(spread)


def _own(one: StepComparison) -> float:
    """Length of the gradient that the optimiser got."""
    return float(one.gradient.norm())


def _joint(one: StepComparison) -> float:
    """The same, together with those that other optimisers held."""
    return math.hypot(_own(one), one.step.around)


def _too_long(one: StepComparison, contract: Declared) -> bool:
    """Whether the optimiser got the true gradient, where clipping should have made it shorter."""
    limit = contract.clip_norm
    return limit is not None and one.exact() and float(one.gradient.norm()) > limit * (1 + max(1e-3, one.alarm))


def _unclipped(one: StepComparison, limit: float | None) -> Finding:
    text = (
        f"a gradient of norm {float(one.gradient.norm()):.4g} reached step {one.number}, clip_norm = {limit} (declared)"
    )
    return fault(Code.CLIPPING, "never clipped", text, one.step.where)


def _weighed(one: StepComparison, judged: Sequence[StepComparison], seen: Trace, contract: Declared) -> list[Finding]:
    """Weights that are wrong whatever the scale of the loss is."""
    size, source = size_of(seen, contract)
    weights = [batch.weight for batch in one.batches]
    # The window's scale was taken from the loop itself: these are the shares of a mean.
    text = (
        f"α = {weights[0] * one.size:.4g} at step {one.number}, window of {one.size}, K = {size} ({source}); "
        f"each micro-batch counts {weights[0]:.4g}, its share is {1 / one.size:.4g}"
    )
    alike = all(near(weight, weights[0], 1e-3) for weight in weights)
    if not alike or len({batch.site for batch in one.batches}) > 1:
        return []
    means = not any(batch.free for batch in one.batches)
    if one.size > 1 and _whole(one):
        return [fault(Code.GRADIENT_SCALE, "never divided", text, one.step.where, ("divided on the first batch only",))]
    if one.size > 1 and means and one.size == size and near(weights[0], 1 / size**2, 1e-3):
        return [fault(Code.GRADIENT_SCALE, "divided twice", text, one.step.where)]
    if one.size < size and near(weights[0], 1 / size, 1e-3):
        others = [batch.weight for other in judged if other.size == size for batch in other.batches]
        if others and all(near(weight, 1 / size, 1e-3) for weight in others):
            return [fault(Code.GRADIENT_SCALE, "ragged window divided by K", text, one.step.where)]
    return []


def _whole(one: StepComparison) -> bool:
    """Whether each mean of a window counts 1: a loss, the sum of its terms or the heaviest of them."""
    for batch in one.batches:
        terms = batch.terms or (() if batch.free else (batch.weight,))
        parts = {sum(terms), *terms}
        if not any(near(part, 1, 1e-3) for part in (sum(terms), max(terms, default=0.0))):
            return False
        if any(near(part, 1 / one.size, 1e-3) for part in parts):
            return False
    return True


def _named(one: StepComparison, before: StepComparison | None, seen: Trace, contract: Declared) -> Finding:
    """The finding for a step that does not have the gradient of its window."""
    size, source = size_of(seen, contract)
    text = f"{one.numbers()}, K = {size} ({source})"
    if float(one.gradient.norm()) == 0:
        return fault(
            Code.ZEROING, "zeroed before the step", f"a gradient of 0 at step {one.number}; {text}", one.step.where
        )
    if one.along():
        return _scaled(one, size, text, seen, contract)
    return _turned(one, before, size, text, contract) or fault(
        Code.DIRECTION,
        "gradient direction",
        text,
        one.step.where,
        ("never zeroed", "left-overs leak", "clipped per micro-batch"),
    )


def _scaled(one: StepComparison, size: int, text: str, seen: Trace, contract: Declared) -> Finding:
    """The right direction, and another length."""
    alpha, scale, where = one.comparison.alpha, one.step.scale, one.step.where
    if scale > 1 and near(alpha, scale):
        return fault(Code.PRECISION, "scaler bypassed", f"{text}; α is the loss scale {scale:g}", where)
    limit = contract.clip_norm is not None and near(float(one.gradient.norm()) * scale, contract.clip_norm)
    if scale > 1 and (limit or near(alpha * scale, 1) or alpha < 1e-2):
        return fault(Code.CLIPPING, "clipped before unscaling", f"{text}; loss scale {scale:g}", where)
    # What the backwards left was right, and what came after may be any factor: this one must be met exactly.
    after = _delivered(one)
    least = 1e-3 if after else LOOSE
    if one.size > 1 and near(alpha, one.size, least):
        return fault(Code.GRADIENT_SCALE, "never divided", text, where, ("divided on the first batch only",))
    if one.size < size and near(alpha, one.size / size, least):
        return fault(Code.GRADIENT_SCALE, "ragged window divided by K", text, where)
    if size > 1 and near(alpha, 1 / size, least):
        return fault(Code.GRADIENT_SCALE, "divided twice", text, where)
    samples = [batch.samples for batch in one.batches]
    if len(set(samples)) == 1 and near(alpha, 1 / samples[0], 1e-3):
        return note(Code.GRADIENT_SCALE, "not judged", f"{text}: the loss seems to be a sum over {samples[0]} samples")
    if contract.accumulation_steps is None:
        return warning(
            Code.GRADIENT_SCALE, "gradient scale", f"{text}: meant, if the loss has a factor of its own", where
        )
    if after and alpha < 1 and contract.clip_norm is None:
        return warning(
            Code.GRADIENT_SCALE,
            "gradient scale",
            f"{text}: made shorter after the last backward, as by clipping",
            where,
        )
    return fault(Code.GRADIENT_SCALE, "gradient scale", text, where, ("divided twice", "never divided"))


def _turned(
    one: StepComparison, before: StepComparison | None, size: int, text: str, contract: Declared
) -> Finding | None:
    """Another direction."""
    where = one.step.where
    equal = torch.stack([batch.gradient for batch in one.batches if batch.gradient is not None]).mean(dim=0)
    means = compare(one.gradient, equal)
    told = f"{text}; each micro-batch counts 1/{size}"
    if contract.mean != "batches" and _parallel(means, one.alarm):
        if one.size < size and near(means.alpha, one.size / size):
            return fault(
                Code.GRADIENT_SCALE, "ragged window divided by K", told, where, ("mean of means in the window",)
            )
        if one.free or means.relative_error <= one.alarm:
            kind = fault if contract.mean or _mostly_unequal(one) else warning
            return kind(Code.DIRECTION, "mean of means in the window", text, where, ("ragged window divided by K",))
        if one.size > 1 and near(means.alpha, one.size):
            return fault(Code.GRADIENT_SCALE, "never divided", told, where, ("divided on the first batch only",))
        if one.size > 1 and near(means.alpha, 1 / size):
            return fault(Code.GRADIENT_SCALE, "divided twice", told, where, ("mean of means in the window",))
    weights = arrived(one)
    if weights is not None and len(weights) > 1:
        told = f"{text}; micro-batches count {', '.join(f'{weight:.3g}' for weight in weights)} times"
        if all(abs(weight) < LOOSE * abs(weights[-1]) for weight in weights[:-1]):
            other = "unscaled per micro-batch" if one.step.scale > 1 else "loop tail dedented"
            return fault(Code.ZEROING, "zeroed per micro-batch", told, where, (other,))
        if near(weights[0], 1) and all(near(weight, one.size) for weight in weights[1:]):
            return fault(Code.GRADIENT_SCALE, "divided on the first batch only", told, where, ("never divided",))
    if len(one.batches) > 1 and _cut(one, contract):
        return fault(Code.CLIPPING, "clipped per micro-batch", text, where)
    if before is not None and len(before.gradient) == len(one.gradient):
        old = compare(one.gradient - one.true, before.gradient)
        if old.cosine > 0.99 and old.alpha > LOOSE:
            name = "never zeroed" if near(old.alpha, 1) else "left-overs leak"
            return fault(
                Code.DIRECTION, name, f"{text}; the last step's gradient is in it {old.alpha:.3g} times", where
            )
    if weights is not None and len(weights) > 1 and min(map(abs, weights)) < LOOSE * max(map(abs, weights)):
        told = f"{text}; micro-batches count {', '.join(f'{weight:.3g}' for weight in weights)} times"
        return fault(Code.ZEROING, "zeroed per micro-batch", told, where, ("left-overs leak", "tail never stepped"))
    error = one.comparison.relative_error
    if _handled(one):
        return warning(
            Code.DIRECTION, "gradient changed by hand", f"{text}: after the last backward, before the step", where
        )
    if error < 2e-2 and one.precision in ("fp64", "fp32"):
        return fault(Code.DIRECTION, "accumulated in bf16", f"{text}; relative error {error:.2g}", where)
    return None


def _parallel(found: GradientComparison, alarm: float) -> bool:
    """Whether two gradients have one direction; in float64 the cosine itself is not rounded better than this."""
    return found.cosine >= 1 - max(alarm**2, 1e-14)


def _handled(one: StepComparison) -> bool:
    """Whether the backwards gave the right sum, and the loop then made something else of it than fewer digits."""
    return _delivered(one) and not bool((one.gradient.bfloat16() == one.gradient).all())


def _delivered(one: StepComparison) -> bool:
    """Whether the last backward of a window left the gradient that it should."""
    last = one.step.backwards[-1].after if one.step.backwards else None
    return last is not None and len(last) == len(one.true) and compare(last, one.true).relative_error <= one.alarm


def _mostly_unequal(one: StepComparison) -> bool:
    """Whether more than one micro-batch of the window differs from the rest: not just a smaller last one."""
    counts = Counter(batch.count for batch in one.batches)
    return len(one.batches) - counts.most_common(1)[0][1] > 1


def arrived(one: StepComparison) -> list[float] | None:
    """How often each micro-batch counts in the step; 1 is its exact share, None if nobody can tell.

    The loop's own weights, where they explain what the optimiser got, else those of least squares.
    """
    kept = [batch.weight if one.step.kept(batch) else 0.0 for batch in one.batches]
    known = torch.stack([batch.gradient for batch in one.batches if batch.gradient is not None]).double()
    given = (torch.tensor(kept, dtype=torch.float64)[:, None] * known).sum(dim=0)
    if float((given - one.gradient.double()).norm()) <= one.alarm * float(given.norm()):
        return [weight / share for weight, share in zip(kept, one.shares, strict=True)]
    return _shares(one, known)


def _shares(one: StepComparison, known: Tensor) -> list[float] | None:
    columns = torch.tensor(one.shares, dtype=torch.float64)[:, None] * known
    lengths = columns.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()) or not bool(torch.isfinite(columns).all()):
        return None
    unit = columns / lengths  # [m, parameters]
    gram = unit @ unit.mT
    if float(torch.linalg.cond(gram)) > CONDITION:
        return None
    weights = torch.linalg.solve(gram, unit @ one.gradient.double()) / lengths[:, 0]
    return [float(weight) for weight in weights]


def _cut(one: StepComparison, contract: Declared) -> bool:
    """Whether the gradient is what clipping after every backward leaves."""
    limit = contract.clip_norm if contract.clip_norm is not None else float(one.gradient.norm())
    sum_ = torch.zeros_like(one.true)
    for batch, share in zip(one.batches, one.shares, strict=True):
        assert batch.gradient is not None
        sum_ = sum_ + share * batch.gradient
        sum_ = sum_ * min(1.0, limit / float(sum_.norm()))
    return compare(one.gradient, sum_).relative_error <= max(1e-3, one.alarm)


def surplus(step: Step, size: int, contract: Declared) -> list[float] | None:
    """How often the micro-batches count that came before the last K of a step; None if nobody can tell."""
    batches = units(step, contract.accumulation_steps)
    true, shares = _window(batches, contract.mean)
    if true is None or step.gradient is None or len(true) != len(step.gradient) or len(batches) <= size:
        return None
    counted = arrived(StepComparison(step, 0, batches, shares, true, compare(step.gradient, true), False))
    return None if counted is None else counted[: len(batches) - size]


def near(value: float, wanted: float, least: float = LOOSE) -> bool:
    """Whether a value is within a share of another."""
    return math.isfinite(wanted) and abs(value - wanted) <= least * abs(wanted)
