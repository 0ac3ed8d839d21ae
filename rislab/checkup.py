"""The checkup: watch any PyTorch loop, hold each optimiser step against the true gradient of its window, and say what
is wrong.

    with rislab.watch(model, optimizer, loss=loss_fn, accumulation_steps=4) as watch:
        reported = train(...)                      # the user's own loop, unchanged
    print(watch.findings(reported=reported))

Findings come from what ran, never from the source. α = ⟨g,r⟩/⟨r,r⟩ compares the gradient g that the optimiser got with
the true gradient r of the window, and their cosine says whether it is the same direction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from rislab.errors import InputError, check_choice, check_number
from rislab.finding import Finding, Findings
from rislab.gradients import ALARMS, GradientComparison, compare
from rislab.witness import MicroBatch, Step, Witness, number

__all__ = ["Finding", "Findings", "Watch", "watch"]

MEANS = ("samples", "batches")
# Least squares tells micro-batches apart only where their gradients are not nearly one: condition of their Gram matrix.
CONDITION = 1e8
# A scaler begins at 2^16, and has gone down to 1 after so many skips.
SKIPS = 17
# Why some tensors stay where they are.
PARTLY = ("head frozen", "weights kept in bf16", "warm-up counted in samples")
# What a step is called whose gradient fits no known fault.
UNNAMED = ("gradient scale", "gradient direction")
# Reported losses that forget the windows without a step.
INSIDE = ("summed only when a step is taken", "summed inside the step branch")
# A weight that is read off may be this far from the one that names a fault.
LOOSE = 0.05

FIXES = {
    "never divided": "multiply each micro-batch loss by its share of the window before backward",
    "divided on the first batch only": "divide in every pass of the loop, not inside a branch",
    "divided twice": "divide the loss once: either here or in the library that accumulates",
    "ragged window divided by K": "weigh by the samples that the last window really holds, not by K",
    "mean of means in the window": "weigh each micro-batch by its samples over those of the window",
    "window off by one": "end a window where (i + 1) % K == 0, with i from 0",
    "tail never stepped": "take a step for what is left at the end of an epoch",
    "left-overs leak": "step, or zero the gradients, at the end of an epoch",
    "zeroed per micro-batch": "zero the gradients once a window, after the step",
    "zeroed before the step": "call zero_grad after the step, or before the first backward of a window",
    "never zeroed": "call optimizer.zero_grad() once a window",
    "step per micro-batch": "step only where a window ends",
    "loop tail dedented": "indent loss, backward and step into the loop over micro-batches",
    "loop tail in a branch never taken": "move backward and step out of the branch, into the loop over micro-batches",
    "step in a branch never taken": "test the condition under which the step stands: it was never met",
    "accumulated in bf16": "keep gradients in float32 between micro-batches",
    "clipped before unscaling": "call scaler.unscale_(optimizer) before clipping",
    "clipped per micro-batch": "clip once a window, after the last backward",
    "scaler bypassed": "call scaler.step(optimizer) instead of optimizer.step()",
    "stepped twice": "step once a window",
    "NaN made 0 in the gradient": "skip the step and record it, instead of replacing NaN",
    "learning rate 0 at the first step": "begin the warm-up at its first rate above 0",
    "scheduler before the optimiser": "step the scheduler after the optimiser",
    "scheduler per micro-batch": "step the scheduler once a window, after the step",
    "schedule runs over skipped steps": "step the scheduler only if the optimiser really stepped",
    "optimiser holds stale parameters": "make the optimiser after the model has its last parameters",
    "weights kept in bf16": "keep the weights in float32, and run the layers under autocast",
    "eval never undone": "call model.train() at the start of each epoch",
    "loss detached": "do not detach the loss, and do not compute it under no_grad",
    "last over n": "add up the losses inside the loop",
    "only the last micro-batch": "average the losses of all micro-batches",
    "logged after the division": "log the raw loss, before it is divided",
    "mean of unequal means": "weigh each batch mean by its samples",
    "sum of means over the set's size": "divide by the number of batches, or multiply each mean by its samples",
    "NaN replaced by the running mean": "report NaN as NaN",
    "rounded to four digits": "report all digits, in scientific form where it is small",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Judged:
    """A step held against its window.

    Args:
        step: as seen. number: from 1. true: gradient of the window. comparison: of the step's with it.
    """

    step: Step
    number: int
    true: Tensor
    comparison: GradientComparison

    @property
    def size(self) -> int:
        """Micro-batches in the window."""
        return len(self.step.micro_batches)

    @property
    def precision(self) -> str:
        """The coarsest of the window's."""
        return max((batch.precision for batch in self.step.micro_batches), key=list(ALARMS).index)

    def exact(self) -> bool:
        """Whether the step's gradient is that of the window, to the alarm levels of its precision."""
        relative, alpha = ALARMS[self.precision]
        return self.comparison.relative_error <= relative and abs(self.comparison.alpha - 1) <= alpha

    def along(self) -> bool:
        """Whether it has at least the direction of the window's."""
        relative, _ = ALARMS[self.precision]
        return self.comparison.cosine >= 1 - relative**2

    def numbers(self) -> str:
        """α, cosine and window, in words."""
        return (
            f"α = {self.comparison.alpha:.4g}, cosine {self.comparison.cosine:.4f} at step {self.number}, "
            f"window of {self.size}"
        )


class Watch:
    """A loop under observation; see watch()."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        loss: Callable[..., Any] | None = None,
        accumulation_steps: int | None = None,
        scaler: Any = None,
        scheduler: Any = None,
        mean: str = "samples",
        clip_norm: float | None = None,
        every: int = 1,
        of: Callable[[Any], Tensor] = lambda loss: loss,
    ) -> None:
        for name, value, kind in (("model", model, nn.Module), ("optimizer", optimizer, torch.optim.Optimizer)):
            if not isinstance(value, kind):
                raise InputError(f"{name} is a {type(value).__name__}; allowed: a {kind.__name__}")
        if loss is not None and not callable(loss):
            raise InputError(f"loss is a {type(loss).__name__}; allowed: a Module or a function")
        if accumulation_steps is not None:
            check_number("accumulation_steps", accumulation_steps, 1, 1_000_000, whole=True)
        if clip_norm is not None:
            check_number("clip_norm", clip_norm, 0, above=True)
        check_choice("mean", mean, MEANS)
        check_number("every", every, 1, 1_000_000, whole=True)
        self.accumulation_steps, self.mean, self.clip_norm, self.scheduler = (
            accumulation_steps,
            mean,
            clip_norm,
            scheduler,
        )
        self._loss, self._scaler = loss, scaler
        self._tensors = sum(value.requires_grad for value in model.parameters())
        self._witness = Witness(model, optimizer, loss, scaler, scheduler, of, every)
        self.seen = self._witness.seen

    def loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss that was given to watch(), heard: for plain Python functions, called in the loop in its place."""
        if self._loss is None:
            raise InputError("watch.loss was called, and watch() was given no loss; allowed: watch(..., loss=function)")
        return self._witness.judge(self._loss(*args, **kwargs))

    def __enter__(self) -> Watch:
        self._witness.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._witness.detach()

    def findings(self, reported: Sequence[float] | None = None) -> Findings:
        """What is wrong with the loop, faults first; empty if nothing is.

        Args:
            reported: the training loss that the loop reported, one number an epoch.
        """
        found = [*self._coverage(), *self._windows()]
        stale = self._weights()
        # Gradients of tensors that the optimiser does not hold are nobody's business to zero.
        held = not (self.seen.stale and self.seen.strange)
        found += [*self._gradients(), *stale] if held else stale
        found += self._schedule()
        found += self._reported(reported) if reported is not None else []
        first: dict[str, Finding] = {}
        for finding in found:
            first.setdefault(finding.name, finding)
        return Findings(first.values())

    # What reached a step.

    def _steps(self) -> list[Step]:
        return [step for step in self.seen.steps if not step.inside]

    def _coverage(self) -> list[Finding]:
        seen, found = self.seen, []
        if any(step.inside for step in seen.steps):
            found.append(_note("C9", "closure", "the loss runs inside the optimiser's step: gradients are not judged"))
        if not seen.micro_batches:
            why = f"{seen.forwards} forwards with gradients, and no loss was heard"
            return [*found, _note("C9", "not judged", f"{why}: give watch() the loss, or call watch.loss in the loop")]
        batches = [batch for step in seen.steps for batch in step.micro_batches] + seen.left
        used = sum(batch.backwards > 0 for batch in batches)
        counts = f"{len(batches)} losses, {used} with a backward, {len(seen.steps)} steps"
        grounded = [batch for batch in batches if not batch.loss.is_floating_point() or batch.why]
        for why in dict.fromkeys(
            batch.why for batch in grounded if batch.why and "carries no gradient" not in batch.why
        ):
            found.append(_note("C1", "not judged", why))
        if all("carries no gradient" in batch.why for batch in batches):
            return [*found, _fault("C9", "loss detached", counts, batches[0].where)]
        if used == 0:
            aliases = ("loss detached", "loop tail dedented")
            return [*found, _fault("C9", "loop tail in a branch never taken", counts, batches[0].where, aliases)]
        applied = [step for step in seen.steps if step.applied]
        if not applied and all(batch.broken for batch in batches if batch.backwards):
            text = f"{counts}, none of them on numbers: every loss or gradient holds NaN or infinity"
            aliases = ("singular vectors differentiated", "step gate too strict")
            return [*found, _fault("C5", "infinity in every step", text, batches[0].where, aliases)]
        if not applied and len(seen.steps) > SKIPS:
            text = f"{len(seen.steps)} steps, all of them skipped; the loss scale is {seen.steps[-1].scale:g}"
            return [*found, _fault("C5", "infinity in every step", text, batches[0].where, ("scaler bypassed",))]
        if not seen.steps:
            aliases = ("step gate too strict", "loop tail in a branch never taken")
            return [*found, _fault("C10", "step in a branch never taken", counts, batches[0].where, aliases)]
        if used < len(batches) - len(seen.left):
            last = [step for step in self._steps() if len(step.micro_batches) > 1]
            if last and all(not b.backwards for step in last for b in step.micro_batches[:-1]):
                where = next(step.where for step in last)
                found.append(_fault("C9", "loop tail dedented", counts, where, ("loop tail in a branch never taken",)))
            elif any(b.backwards == 0 for step in self._steps() for b in step.micro_batches):
                found.append(_warning("C9", "forwards that reached no step", counts))
        if any(batch.precision == "fp16" for batch in batches) and not (self._scaler and self._scaler.is_enabled()):
            text = "float16, and the scaler is disabled" if self._scaler else "float16, and no scaler was given"
            kind = _fault if self._scaler else _warning
            found.append(
                kind("C13", "scaler only where CUDA is", f"{text}: gradients below 6e-8 are 0", batches[0].where)
            )
        lost = [batch for batch in batches if not bool(torch.isfinite(batch.loss).all())]
        if lost:
            half = ("epsilon vanishes in half precision", "squares overflow in half precision")
            text = f"NaN or infinity in {len(lost)} of {len(batches)} losses, in {lost[0].precision}"
            found.append(_warning("C5", "losses that are no numbers", text, lost[0].where, half))
        if any(not batch.mode for batch in batches):
            evaluated = sum(not batch.mode for batch in batches)
            text = f"{evaluated} of {len(batches)} training losses in evaluation mode"
            kind = _fault if any(batch.mode for batch in batches) else _warning
            found.append(kind("C12", "eval never undone", text, next(b.where for b in batches if not b.mode)))
        return found

    # How large the windows were.

    def _size(self) -> tuple[int, str]:
        """Micro-batches in a window: as declared, else as most steps have it."""
        if self.accumulation_steps is not None:
            return self.accumulation_steps, "declared"
        sizes = Counter(len(step.micro_batches) for step in self._steps() if step.micro_batches)
        return (sizes.most_common(1)[0][0] if sizes else 1), "as most windows have it"

    def _windows(self) -> list[Finding]:
        steps = self._steps()
        if not steps or not self.seen.micro_batches:
            return []
        found = []
        size, source = self._size()
        empty = [step for step in steps if not step.micro_batches]
        if empty:
            text = f"{len(empty)} of {len(steps)} steps came without a new loss"
            found.append(_fault("C3", "stepped twice", text, empty[0].where))
        # Where NaN made a loop throw a window away, the places of the others say nothing.
        steps = [step for step in steps if step.micro_batches and step.applied]
        sizes = [len(step.micro_batches) for step in steps]
        if not sizes:
            return found
        short = [place for place, count in enumerate(sizes[:-1]) if count < size]
        long = [place for place, count in enumerate(sizes) if count > size]
        told = f"windows of {_spoken(sizes)} micro-batches, K = {size} ({source})"
        if size > 1 and len(sizes) > 1 and sizes.count(1) > len(sizes) / 2:
            found.append(_fault("C3", "step per micro-batch", told, steps[0].where))
        elif short and short[0] == 0 and len(sizes) > 1 and sizes[0] == 1 and sizes[1] == size > 1:
            found.append(_fault("C3", "window off by one", told, steps[0].where))
        elif long and not any(finding.name == "loop tail dedented" for finding in self._coverage()):
            found.append(self._overlong(steps, size, told))
        left = [batch for batch in self.seen.left if batch.backwards]
        if left and len(left) < size and not found and not any(batch.broken for batch in left):
            text = f"{len(left)} micro-batches with a backward came after the last step, K = {size} ({source})"
            found.append(_fault("C10", "tail never stepped", text, left[-1].where, ("left-overs leak",)))
        return found

    def _overlong(self, steps: list[Step], size: int, told: str) -> Finding:
        """Windows with more than K micro-batches: were the surplus ones lost, or do they leak?"""
        for step in steps:
            surplus = len(step.micro_batches) - size
            weights = _shares(step) if surplus > 0 else None
            if weights is not None:
                lost = all(abs(weight) < LOOSE for weight in weights[:surplus])
                name, other = (
                    ("tail never stepped", "left-overs leak") if lost else ("left-overs leak", "tail never stepped")
                )
                return _fault("C8" if lost else "C3", name, told, step.where, (other,))
        if all(len(step.micro_batches) > size for step in steps):
            return _fault("C3", "window size", told, steps[0].where, ("step gate too strict", "window off by one"))
        return _fault("C3", "left-overs leak", told, steps[0].where, ("tail never stepped", "step gate too strict"))

    # What the optimiser got.

    def _judged(self) -> list[Judged]:
        found = []
        for place, step in enumerate(self.seen.steps, start=1):
            batches = step.micro_batches
            if step.inside or step.gradient is None or not batches or not step.applied:
                continue
            true = self._true(batches)
            if true is not None and bool(torch.isfinite(true).all()) and float(true.norm()) > 0:
                found.append(Judged(step, place, true, compare(step.gradient, true)))
        return found

    def _true(self, batches: Sequence[MicroBatch]) -> Tensor | None:
        known = [batch.gradient for batch in batches]
        if any(gradient is None for gradient in known):
            return None
        samples = sum(batch.samples for batch in batches)
        shares = [batch.samples / samples if self.mean == "samples" else 1 / len(batches) for batch in batches]
        return torch.stack([s * g for s, g in zip(shares, known, strict=True) if g is not None]).sum(dim=0)

    def _gradients(self) -> list[Finding]:
        found = []
        for place, step in enumerate(self.seen.steps, start=1):
            if step.inside or not step.applied or step.gradient is None or not step.micro_batches:
                continue
            true = self._true(step.micro_batches)
            broken = true is not None and not bool(torch.isfinite(true).all())
            if not step.finite:
                text = f"NaN or infinity in the gradient of step {place}, which was taken"
                found.append(
                    _fault("C5", "scaler bypassed", text, step.where, ("overflow looked up under a wrong key",))
                )
            elif broken:
                text = (
                    f"the true gradient of step {place} holds NaN or infinity, and the one that was stepped on does not"
                )
                found.append(_fault("C5", "NaN made 0 in the gradient", text, step.where, ("NaN guard in the loop",)))
        judged = self._judged()
        bent = [one for one in judged if not one.exact() and not self._clipped(one, judged)]
        previous: dict[int, Judged] = {one.number: one for one in judged}
        named = [self._named(one, previous.get(one.number - 1)) for one in bent]
        # Where one window names its fault, what is left of it in the others says less.
        known = [finding for finding in named if finding.name not in UNNAMED]
        found += known or named
        if not found and any(one.exact() is False for one in judged) and self.clip_norm is None:
            found.append(
                _note("C7", "clipping assumed", "gradients have the direction of their window, and one length")
            )
        return found

    def _clipped(self, one: Judged, judged: Sequence[Judged]) -> bool:
        """Whether a shorter gradient is what declared, or evident, clipping makes of it."""
        step = one.step.gradient
        assert step is not None
        length, true = float(step.norm()), float(one.true.norm())
        relative = max(1e-4, ALARMS[one.precision][0])
        if self.clip_norm is not None:
            return one.along() and abs(length - min(true, self.clip_norm)) <= relative * length
        if not one.along():
            largest = float(step.abs().max())
            return largest > 0 and torch.allclose(
                step, one.true.clamp(-largest, largest), rtol=10 * relative, atol=relative * largest
            )
        alike = [
            other
            for other in judged
            if other.step.gradient is not None
            and abs(float(other.step.gradient.norm()) - length) <= relative * length
            and not other.exact()
        ]
        spread = [float(other.true.norm()) for other in alike]
        # One length out of several different ones: nothing but clipping does that, before or after unscaling.
        evident = len(alike) >= 2 and max(spread) > (1 + 10 * relative) * min(spread) and length < min(spread)
        return evident and not (one.step.scale > 1 and length * one.step.scale > 1e-2 and length < 1e-2)

    def _named(self, one: Judged, before: Judged | None) -> Finding:
        """The finding for a step that does not have the gradient of its window."""
        alpha, size, step = one.comparison.alpha, one.size, one.step
        gradient = step.gradient
        assert gradient is not None
        declared, source = self._size()
        text = f"{one.numbers()}, K = {declared} ({source})"
        if float(gradient.norm()) == 0:
            return _fault("C8", "zeroed before the step", f"a gradient of 0 at step {one.number}; {text}", step.where)
        if one.along():
            if step.scale > 1 and _near(alpha, step.scale):
                return _fault("C13", "scaler bypassed", f"{text}; α is the loss scale {step.scale:g}", step.where)
            scaled = self.clip_norm is not None and _near(float(gradient.norm()) * step.scale, self.clip_norm)
            if step.scale > 1 and (scaled or _near(alpha * step.scale, 1) or alpha < 1e-2):
                return _fault("C7", "clipped before unscaling", f"{text}; loss scale {step.scale:g}", step.where)
            if size > 1 and _near(alpha, size):
                return _fault("C1", "never divided", text, step.where, ("divided on the first batch only",))
            if size < declared and _near(alpha, size / declared):
                return _fault("C1", "ragged window divided by K", text, step.where)
            if declared > 1 and _near(alpha, 1 / declared):
                return _fault("C1", "divided twice", text, step.where)
            return _fault("C1", "gradient scale", text, step.where, ("divided twice", "never divided"))
        equal = torch.stack([b.gradient for b in step.micro_batches if b.gradient is not None]).mean(dim=0)
        means = compare(gradient, equal)
        if self.mean == "samples" and means.relative_error <= ALARMS[one.precision][0]:
            return _fault("C2", "mean of means in the window", text, step.where, ("ragged window divided by K",))
        if size < declared and means.cosine > 1 - ALARMS[one.precision][0] ** 2 and _near(means.alpha, size / declared):
            told = f"{text}; each micro-batch counts 1/{declared}"
            return _fault("C1", "ragged window divided by K", told, step.where, ("mean of means in the window",))
        weights = _shares(step)
        if weights is not None:
            told = f"{text}; micro-batches count {', '.join(f'{weight:.3g}' for weight in weights)} times"
            if len(weights) > 1 and all(abs(weight) < LOOSE for weight in weights[:-1]):
                other = "unscaled per micro-batch" if step.scale > 1 else "loop tail dedented"
                return _fault("C8", "zeroed per micro-batch", told, step.where, (other,))
            if _near(weights[0], 1) and all(_near(weight, size) for weight in weights[1:]):
                return _fault("C1", "divided on the first batch only", told, step.where, ("never divided",))
            if self._cut(one):
                return _fault("C7", "clipped per micro-batch", told, step.where)
        if before is not None and before.step.gradient is not None:
            rest = gradient - one.true
            old = compare(rest, before.step.gradient)
            if old.cosine > 0.99 and old.alpha > LOOSE:
                name = "never zeroed" if _near(old.alpha, 1) else "left-overs leak"
                return _fault(
                    "C2", name, f"{text}; the last step's gradient is in it {old.alpha:.3g} times", step.where
                )
        if one.comparison.relative_error < 2e-2 and one.precision in ("fp64", "fp32"):
            return _fault(
                "C2", "accumulated in bf16", f"{text}; relative error {one.comparison.relative_error:.2g}", step.where
            )
        return _fault(
            "C2", "gradient direction", text, step.where, ("never zeroed", "left-overs leak", "clipped per micro-batch")
        )

    def _cut(self, one: Judged) -> bool:
        """Whether the gradient is what clipping after every backward leaves."""
        assert one.step.gradient is not None
        limit = self.clip_norm if self.clip_norm is not None else float(one.step.gradient.norm())
        samples = sum(batch.samples for batch in one.step.micro_batches)
        sum_ = torch.zeros_like(one.true)
        for batch in one.step.micro_batches:
            assert batch.gradient is not None
            sum_ = sum_ + batch.samples / samples * batch.gradient
            sum_ = sum_ * min(1.0, limit / float(sum_.norm()))
        return compare(one.step.gradient, sum_).relative_error <= max(1e-3, ALARMS[one.precision][0])

    # What became of the weights, and of the schedule.

    def _weights(self) -> list[Finding]:
        seen, found = self.seen, []
        applied = [step for step in self.seen.steps if step.applied]
        if seen.stale and seen.strange:
            text = f"{len(seen.strange)} trainable tensors are not in the optimiser, which holds {seen.stale} others"
            return [_fault("C4", "optimiser holds stale parameters", text)]
        if seen.strange:
            found.append(
                _warning("C4", "not in the optimiser", f"trainable, and held by no group: {_listed(seen.strange)}")
            )
        if seen.frozen:
            found.append(
                Finding("C4", "frozen tensors", "note", f"{seen.frozen} ask for no gradient", aliases=("head frozen",))
            )
        moving = [step for step in applied if max(step.rates, default=0.0) > 0]
        stuck = [name for name in seen.still if name not in seen.strange]
        if not moving or not stuck:
            return found
        text = f"{len(stuck)} tensors never moved in {len(moving)} steps: {_listed(stuck)}"
        arrived = [step.gradient for step in moving if step.gradient is not None]
        if len(stuck) + len(seen.strange) < self._tensors:
            text += f"; the largest learning rate was {max(max(step.rates) for step in moving):.2g}"
            return [*found, _warning("C4", "detached backbone", text, aliases=PARTLY)]
        if all(number(loss) == 0 for loss, _ in seen.losses):
            return [*found, _fault("C4", "main loss weight 0", f"all {len(seen.losses)} losses are 0; {text}")]
        if arrived and all(float(gradient.norm()) == 0 for gradient in arrived):
            aliases = ("main loss weight 0", "zeroed before the step")
            return [*found, _fault("C4", "loss detached", f"all gradients are 0; {text}", aliases=aliases)]
        rates = f"the largest learning rate was {max(max(step.rates) for step in moving):.2g}; {text}"
        return [*found, _fault("C4", "weights kept in bf16", rates, aliases=("warm-up counted in samples",))]

    def _schedule(self) -> list[Finding]:
        applied = [step for step in self.seen.steps if step.applied]
        found = []
        zero = [place for place, step in enumerate(applied) if step.rates and max(step.rates) == 0]
        if zero and len(zero) == len(applied) - zero[0] and zero[0] > 0:
            found.append(_note("C6", "schedule ends in a rate of 0", f"the last {len(zero)} of {len(applied)} steps"))
        elif zero:
            text = f"learning rate 0 at {len(zero)} of {len(applied)} steps, the first at step {zero[0] + 1}"
            found.append(
                _fault(
                    "C6",
                    "learning rate 0 at the first step",
                    text,
                    applied[zero[0]].where,
                    ("warm-up counted in samples",),
                )
            )
        largest = [max(step.rates, default=0.0) for step in applied]
        lowest = [rate <= 1.001 * min(largest) for rate in largest]
        if (
            largest
            and min(largest) <= 0.05 * max(largest)
            and not zero
            and sum(lowest) > len(lowest) / 2
            and lowest[-1]
        ):
            text = f"{sum(lowest)} of {len(lowest)} steps at the lowest rate, {min(largest):.2g} of {max(largest):.2g}"
            found.append(_warning("C6", "schedule ends early", text))
        if self.scheduler is None or not applied:
            return found
        ticks = [step.ticks or 0 for step in self.seen.steps]
        batches = sum(len(step.micro_batches) for step in self.seen.steps[:-1])
        passed = ticks[-1] - ticks[0]
        counts = f"{ticks[-1]} ticks before step {len(ticks)}, {batches} micro-batches, {len(applied)} steps taken"
        if ticks[0] >= 1 and self.seen.steps[0].applied:
            size = len(self.seen.steps[0].micro_batches)
            name = "scheduler per micro-batch" if ticks[0] >= size > 1 else "scheduler before the optimiser"
            found.append(_fault("C11", name, f"{ticks[0]} ticks before the first step; {counts}", applied[0].where))
        elif batches > len(ticks) - 1 > 0 and passed >= batches:
            found.append(_fault("C11", "scheduler per micro-batch", counts, applied[0].where))
        else:
            before = [sum(step.applied for step in self.seen.steps[:place]) for place in range(len(ticks))]
            ahead = [place for place, (tick, due) in enumerate(zip(ticks, before, strict=True)) if tick > due]
            if ahead and any(not step.applied for step in self.seen.steps[: ahead[0] + 1]):
                found.append(_fault("C11", "schedule runs over skipped steps", counts, applied[0].where))
            elif ahead:
                found.append(_fault("C11", "scheduler per micro-batch", counts, applied[0].where))
            elif 0 < passed < before[-1]:
                text = f"{counts}: fewer ticks than steps, as of a schedule that counts epochs"
                found.append(_note("C11", "schedule stepped per epoch", text))
        return found

    # What was reported.

    def _reported(self, reported: Sequence[float]) -> list[Finding]:
        total, epochs = len(self.seen.losses), len(reported)
        if not total or not epochs or total % epochs:
            text = f"{epochs} numbers were reported, and {total} losses heard, which is no multiple of it"
            return [_note("C14", "not judged", text)]
        length = total // epochs
        for epoch, value in enumerate(map(float, reported), start=1):
            heard = self.seen.losses[(epoch - 1) * length : epoch * length]
            finding = self._told(value, [(number(loss), count) for loss, count in heard], epoch)
            if finding is not None:
                return [finding]
        return []

    def _told(self, value: float, heard: list[tuple[float, int]], epoch: int) -> Finding | None:
        size, _ = self._size()
        windows = [heard[first : first + size] for first in range(0, len(heard), size)]
        means = [_mean(window) for window in windows]
        losses, samples = [loss for loss, _ in heard], [count for _, count in heard]
        weighted, plain = _mean(heard), sum(losses) / len(losses)
        true, other = (weighted, plain) if self.mean == "samples" else (plain, weighted)
        text = f"reported {value:.6g} in epoch {epoch}, where the losses have the mean {true:.6g}"
        if not math.isfinite(true):
            if not math.isfinite(value):
                return None
            others: tuple[str, ...] = ("NaN written as 0", "only the last micro-batch", *INSIDE)
            return _fault("C14", "NaN replaced by the running mean", text, "", others)
        # A sum of a thousand losses in the loop's own precision may be off by this much.
        if _near(value, true, 100 * torch.finfo(self.seen.losses[0][0].dtype).eps):
            return None
        digits = next((digits for digits in range(1, 7) if value == round(true, digits)), None)
        if digits is not None:
            return _fault("C14", "rounded to four digits", f"{text}: {digits} digits after the point are left")
        shares = [sum(count for _, count in window) for window in windows]
        lasts = list(zip((window[-1][0] for window in windows), shares, strict=True))
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
            if _near(value, guess, 1e-4):
                return _fault("C14", name, text, "", aliases)
        if value == 0:
            others = ("last over n", "main loss weight 0", "summed only when a step is taken")
            return _fault("C14", "loop tail in a branch never taken", text, "", others)
        return _fault("C14", "another loss reported", text, "", (*INSIDE, "last over n", "never divided"))


def watch(model: nn.Module, optimizer: torch.optim.Optimizer, **declared: Any) -> Watch:
    """Watch a training loop: `with rislab.watch(model, optimizer, loss=loss_fn) as watch: train(...)`.

    The watched run is bit-identical to the unwatched one. All hooks are taken away on leaving, after an exception too.

    Args:
        model, optimizer: of the loop.
        loss: a Module or a function of torch, heard by itself; a plain Python function is to be called as `watch.loss`.
        accumulation_steps: K, ≥ 1; inferred from the steps if None.
        scaler, scheduler: of the loop, or None.
        mean: "samples" if every sample of a window counts the same, "batches" if every micro-batch does.
        clip_norm: declared limit of the gradient norm; if None, evident clipping is assumed to be meant.
        every: compare the gradients of each n-th window only.
        of: takes the raw loss, a scalar tensor, out of what `loss` returns; the value itself by default.

    Raises:
        InputError: for a value that is not allowed.
    """
    return Watch(model, optimizer, **declared)


def _shares(step: Step) -> list[float] | None:
    """How often each micro-batch counts in a step, by least squares; 1 is its exact share, None if nobody can tell."""
    known = [batch.gradient for batch in step.micro_batches if batch.gradient is not None]
    if len(known) < len(step.micro_batches) or step.gradient is None:
        return None
    samples = sum(batch.samples for batch in step.micro_batches)
    columns = torch.stack(
        [batch.samples / samples * g.double() for batch, g in zip(step.micro_batches, known, strict=True)]
    )
    lengths = columns.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()) or not bool(torch.isfinite(columns).all()):
        return None
    units = columns / lengths  # [m, parameters]
    gram = units @ units.mT
    if float(torch.linalg.cond(gram)) > CONDITION:
        return None
    weights = torch.linalg.solve(gram, units @ step.gradient.double()) / lengths[:, 0]
    return [float(weight) for weight in weights]


def _mean(pairs: Sequence[tuple[float, int]]) -> float:
    """Mean of values that each count so often."""
    return sum(value * count for value, count in pairs) / sum(count for _, count in pairs)


def _near(value: float, wanted: float, least: float = LOOSE) -> bool:
    return math.isfinite(wanted) and abs(value - wanted) <= least * abs(wanted)


def _spoken(sizes: Sequence[int]) -> str:
    shown = ", ".join(map(str, sizes[:8]))
    return shown + (", …" if len(sizes) > 8 else "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _fault(code: str, name: str, evidence: str, where: str = "", aliases: tuple[str, ...] = ()) -> Finding:
    return Finding(code, name, "fault", evidence, FIXES.get(name, ""), where, aliases)


def _warning(code: str, name: str, evidence: str, where: str = "", aliases: tuple[str, ...] = ()) -> Finding:
    return Finding(code, name, "warning", evidence, FIXES.get(name, ""), where, aliases)


def _note(code: str, name: str, evidence: str) -> Finding:
    return Finding(code, name, "note", evidence)
