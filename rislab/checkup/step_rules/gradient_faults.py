"""The fault that makes a gradient: told by its length, its direction, and how often each micro-batch counts in it."""

from __future__ import annotations

import math
from collections import Counter

import torch

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning
from rislab.checkup.recording.gradients import compare_gradients
from rislab.checkup.recording.windows import (
    LOOSE,
    StepComparison,
    StepWindow,
    WatchedRun,
    is_parallel,
    micro_batch_weights,
    near,
)
from rislab.checkup.rules import Code
from rislab.checkup.step_rules.clipping import (
    clipped_per_micro_batch,
    limit_of,
    norm_of,
    only_shorter,
    right_after_backward,
)
from rislab.checkup.step_rules.terms_in_a_loop import (
    are_terms,
    divided_again,
    factors_of,
    is_one_sequence,
    shares_of,
    undivided,
)

# Names that others ask for.
UNEQUAL = "mean of means in the window"
BY_HAND = "gradient changed by hand"
# A cosine that is no accident, and a share of a gradient that is rounding.
ALIKE, IN_ALL = 0.2, 1e-3


def wrong_weights(one: StepComparison, run: WatchedRun) -> list[Finding]:
    """Weights that are wrong whatever the scale of the loss is."""
    weights = [batch.weight for batch in one.batches]
    # The window's scale was taken from the loop itself: these are the shares of a mean.
    text = (
        f"α = {weights[0] * one.size:.4g} at step {one.number}, window of {one.size}, K = {run.size} ({run.source}); "
        f"each micro-batch counts {weights[0]:.4g}, its share is {1 / one.size:.4g}"
    )
    equal = all(near(weight, weights[0], 1e-3) for weight in weights)
    if not equal or len({batch.call_stack for batch in one.batches}) > 1 or _divided_after(one):
        return []
    if run.declared.accumulation_steps is None and is_one_sequence(one):
        return []
    means = not any(batch.scale_free for batch in one.batches)
    shared = shares_of(one)
    if not means and run.source == "declared" and one.size == run.size > 2 and divided_again(one, shared, run):
        factors = " and ".join(f"{factor:.4g}" for factor in factors_of(one.batches[0]) if not near(factor, 1, 1e-6))
        alpha = f"α = {1 / one.size:.4g} at step {one.number}, window of {one.size}, K = {run.size} ({run.source})"
        return [_scale_fault("divided twice", f"{alpha}; each loss has the factors {factors}", one)]
    if one.size > 1 and shared and set(shared) == {1}:
        # Besides a factor of its own, the loss has its share.
        return []
    if one.size > 1 and _each_mean_counts_one(one):
        return [undivided(text, one, run)]
    if one.size > 1 and means and one.size == run.size and near(abs(weights[0]), 1 / run.size**2, 1e-3):
        return [_scale_fault("divided twice", text, one)]
    if one.size < run.size and near(weights[0], 1 / run.size, 1e-3):
        others = [batch.weight for other in run.comparisons if other.size == run.size for batch in other.batches]
        if others and all(near(weight, 1 / run.size, 1e-3) for weight in others):
            return [_ragged_window(text, one, run)]
    return _wrong_divisor(one, text, run) if means and one.size > 1 and one.size == run.size else []


def _wrong_divisor(one: StepComparison, text: str, run: WatchedRun) -> list[Finding]:
    """Losses that are divided by a whole number, which is not that of the window."""
    divisor = 1 / one.batches[0].weight if one.batches[0].weight else math.nan
    if not near(divisor, round(divisor) if math.isfinite(divisor) else math.nan, 1e-4) or divisor < 1.5:
        return []
    if near(divisor, one.size, 1e-3) or (run.declared.accumulation_steps is None and are_terms(one)):
        return []
    evidence = f"{text}: the loop divides by {divisor:g}"
    if run.source == "declared":
        return [_scale_fault("gradient scale", evidence, one)]
    either = f"windows of {one.size} are too long, or the divisor is too small" if divisor < one.size else "or meant"
    return [as_warning(Code.GRADIENT_SCALE, "gradient scale", f"{evidence}: {either}", one.step.where)]


def _scale_fault(name: str, text: str, one: StepComparison, *aliases: str) -> Finding:
    return as_fault(Code.GRADIENT_SCALE, name, text, one.step.where, aliases)


def _ragged_window(text: str, one: StepComparison, run: WatchedRun, *aliases: str) -> Finding:
    """A smaller window divided by K; a warning where no line of the loop divides."""
    name, library = "ragged window divided by K", run.declared.divides
    if not library:
        return _scale_fault(name, text, one, *aliases)
    evidence = f"{text}: {library} divides by K in every window, so that this one counts {one.size}/{run.size}"
    return as_warning(Code.GRADIENT_SCALE, name, evidence, one.step.where, aliases)


def _each_mean_counts_one(one: StepComparison) -> bool:
    """Whether each mean of a window counts 1: a loss, the sum of its terms or the heaviest of them."""
    for batch in one.batches:
        terms = batch.term_weights or (() if batch.scale_free else (batch.weight,))
        if not any(near(weight, 1, 1e-3) for weight in (sum(terms), max(terms, default=0.0))):
            return False
        if any(near(weight, 1 / one.size, 1e-3) for weight in {sum(terms), *terms}):
            return False
    return True


def fault_of(one: StepComparison, before: StepComparison | None, run: WatchedRun) -> Finding:
    """The finding for a step that does not have the gradient of its window."""
    text = f"{one.numbers()}, K = {run.size} ({run.source})"
    if norm_of(one) == 0:
        evidence = f"a gradient of 0 at step {one.number}; {text}"
        return as_fault(Code.ZEROING, "zeroed before the step", evidence, one.step.where)
    if _is_put_together(one):
        evidence = f"{text}: what some backwards gave was zeroed before the next, and is in the step all the same"
        return as_note(Code.DIRECTION, BY_HAND, f"{evidence}: the loop kept it, and put the gradient together itself")
    if one.parallel():
        return _wrong_length(one, text, run)
    aliases = ("never zeroed", "clipped per micro-batch" if one.step.clips else "left-overs leak")
    if changed_after_backward(one) and (one.step.is_clipped_in_parts(run.trace.tensors) or only_shorter(one, run)):
        return as_note(Code.CLIPPING, "clipping assumed", f"{text}: its tensors are clipped in several parts")
    named = _wrong_direction(one, text, run) or _wrong_counts(one, before, text, run)
    if named is None and changed_after_backward(one):
        return _changed_by_hand(one, text)
    return named or as_fault(Code.DIRECTION, "gradient direction", text, one.step.where, aliases)


def _is_put_together(one: StepComparison) -> bool:
    """Whether the loop keeps the gradients of its backwards, as of several tasks, and steps on what it makes of all."""
    zeroed = [
        batch.gradient for batch in one.step.micro_batches if batch.gradient is not None and not one.step.holds(batch)
    ]
    last, given = one.step.backwards[-1].after if one.step.backwards else None, one.gradient.double()
    if not zeroed or last is None or not changed_after_backward(one) or one.comparison.cosine <= 0:
        return False
    if len(last) != len(given) or not bool(last.any()):
        return False
    columns = [own.double() for own in (last, *zeroed) if len(own) == len(last) and bool(own.any())]
    unit = torch.stack([column / column.norm() for column in columns])  # [backwards, parameters]
    weights = torch.linalg.lstsq(unit @ unit.mT, unit @ given, driver="gelsd").solution
    # Noise on what the last backward left, and what is clipped in parts, is no sum of what backwards gave.
    explained = float((given - weights @ unit).norm()) <= IN_ALL * float(given.norm())
    return explained and bool((weights[1:].abs() > LOOSE * weights.abs().max()).any())


def _wrong_length(one: StepComparison, text: str, run: WatchedRun) -> Finding:
    """The right direction, and another length."""
    alpha, scale, limit, where = one.comparison.alpha, one.step.scale, limit_of(one, run), one.step.where
    if run.declared.accumulation_steps is None and is_one_sequence(one):
        evidence = f"{text}: its micro-batches are chunks of one sequence, whose losses may be added up"
        return as_note(Code.GRADIENT_SCALE, "gradient scale", evidence)
    if scale > 1 and near(alpha, scale):
        return as_fault(Code.PRECISION, "scaler bypassed", f"{text}; α is the loss scale {scale:g}", where)
    at_limit = limit is not None and near(norm_of(one) * scale, limit)
    if scale > 1 and (at_limit or near(alpha * scale, 1) or alpha < 1e-2):
        return as_fault(Code.CLIPPING, "clipped before unscaling", f"{text}; loss scale {scale:g}", where)
    # What the backwards left was right, and what came after may be any factor: this one must be met exactly.
    changed_after = right_after_backward(one)
    if changed_after and _divided_after(one):
        evidence = f"{text}: the gradients were divided after the backwards, and are the mean of the window"
        return as_note(Code.GRADIENT_SCALE, "gradient scale", evidence)
    relative = 1e-3 if changed_after else LOOSE
    if one.size > 1 and near(alpha, one.size, relative):
        return undivided(text, one, run)
    if one.size < run.size and near(alpha, one.size / run.size, relative):
        return _ragged_window(text, one, run)
    shares = {*shares_of(one)}
    if one.size > 1 and shares == {1} and near(alpha, sum(one.held_weights), relative):
        evidence = f"{text}: each loss has its share once, and a factor of its own"
        return as_note(Code.GRADIENT_SCALE, "gradient scale", evidence)
    if run.size > 1 and near(alpha, 1 / run.size, relative):
        if run.size == one.size == 2 and shares == {2}:
            evidence = f"{text}: each loss has the factor 1/2 twice, of which one may be its own"
            return as_warning(Code.GRADIENT_SCALE, "divided twice", evidence, where)
        return _scale_fault("divided twice", text, one)
    samples = {batch.samples for batch in one.batches}
    if len(samples) == 1 and near(alpha, 1 / min(samples), 1e-3):
        evidence = f"{text}: the loss seems to be a sum over {min(samples)} samples"
        return as_note(Code.GRADIENT_SCALE, "not judged", evidence)
    if changed_after and all(batch.scale_free for batch in one.batches):
        evidence = f"{text}: the losses are sums, and the gradients were divided after the backwards"
        return as_note(Code.GRADIENT_SCALE, "not judged", evidence)
    if run.declared.accumulation_steps is None:
        evidence = f"{text}: meant, if the loss has a factor of its own"
        return as_warning(Code.GRADIENT_SCALE, "gradient scale", evidence, where)
    if changed_after and alpha < 1 and limit is None:
        evidence = f"{text}: made shorter after the last backward, as by clipping"
        return as_warning(Code.GRADIENT_SCALE, "gradient scale", evidence, where)
    return _scale_fault("gradient scale", text, one, "divided twice", "never divided")


def _wrong_direction(one: StepComparison, text: str, run: WatchedRun) -> Finding | None:
    """Another direction, which is that of the mean of the micro-batches' gradients."""
    mean = torch.stack([batch.gradient for batch in one.batches if batch.gradient is not None]).mean(dim=0)
    equal = compare_gradients(one.gradient, mean)
    if run.declared.mean == "batches" or not is_parallel(equal, one.tolerance):
        return None
    counts = f"{text}; each micro-batch counts 1/{run.size}"
    if one.size < run.size and near(equal.alpha, one.size / run.size):
        return _ragged_window(counts, one, run, UNEQUAL)
    if one.scale_free or equal.relative_error <= one.tolerance:
        meant = bool(run.declared.mean) and not run.declared.divides
        if not meant and _weighs_classes(one):
            evidence = f"{text}: of equally many samples, the weights of their classes have another sum each time"
            return as_note(Code.DIRECTION, UNEQUAL, evidence)
        kind = as_fault if meant or _mostly_unequal(one) else as_warning
        aliases = ("ragged window divided by K",)
        return kind(Code.DIRECTION, UNEQUAL, text, one.step.where, aliases)
    if one.size > 1 and near(equal.alpha, one.size):
        return undivided(counts, one, run)
    if one.size > 1 and near(equal.alpha, 1 / run.size):
        return _scale_fault("divided twice", counts, one, UNEQUAL)
    return None


def _wrong_counts(one: StepComparison, before: StepComparison | None, text: str, run: WatchedRun) -> Finding | None:
    """Another direction, of which the weights of the micro-batches, the step before or lost digits are the reason."""
    where = one.step.where
    weights = micro_batch_weights(one) or []
    weights = weights if len(weights) > 1 else []
    counts = f"{text}; micro-batches count {', '.join(f'{weight:.3g}' for weight in weights)} times"
    if one.size > 1 and clipped_per_micro_batch(one):
        return as_fault(Code.CLIPPING, "clipped per micro-batch", text, where)
    largest = max(map(abs, weights), default=0.0)
    zeroed = [abs(weight) < LOOSE * largest for weight in weights]
    if any(zeroed) and any(window.size == one.size and window.exact() for window in run.comparisons):
        # Other windows hold all of theirs: an epoch begins here, and what the last one left was zeroed.
        return as_fault(Code.ZEROING, "tail never stepped", counts, where, ("zeroed per micro-batch",))
    if weights and all(zeroed[:-1]) and one.step.inferred:
        text = f"{counts}: what the optimiser of another library adds up itself is not known"
        return as_note(Code.GRADIENT_SCALE, "not judged", text)
    if weights and all(zeroed[:-1]):
        other = "unscaled per micro-batch" if one.step.scale > 1 else "backward after the batch loop"
        return as_fault(Code.ZEROING, "zeroed per micro-batch", counts, where, (other,))
    if weights and near(weights[0], 1) and all(near(weight, one.size) for weight in weights[1:]):
        return _scale_fault("divided on the first batch only", counts, one, "never divided")
    if before is not None and before.step.gradient is not None and len(before.gradient) == len(one.gradient):
        # Clipping makes the sum of both shorter, after the last backward.
        last = one.step.backwards[-1].after if one.step.clips and one.step.backwards else None
        given = one.gradient if last is None or len(last) != len(one.gradient) else last
        rest = compare_gradients(given - one.expected, before.gradient)
        turned = one.comparison.cosine < 1e-6 - 1 and near(-one.comparison.alpha, 1)  # a sign that was changed by hand
        if rest.cosine > 0.99 and rest.alpha > LOOSE and not turned:
            name = "never zeroed" if near(rest.alpha, 1) else "left-overs leak"
            share = "whole" if name == "never zeroed" else f"{rest.alpha:.3g} times"
            evidence = f"{text}; the last step's gradient is in it {share}"
            return as_fault(Code.DIRECTION, name, evidence, where)
    if any(zeroed):
        return as_fault(
            Code.ZEROING, "zeroed per micro-batch", counts, where, ("left-overs leak", "tail never stepped")
        )
    if right_after_backward(one) and not bool((one.gradient.bfloat16() == one.gradient).all()):
        return _changed_by_hand(one, text)
    error, scale = one.comparison.relative_error, one.step.scale
    coarse = bool(((one.gradient * scale).bfloat16() == one.gradient * scale).all())
    if error < 2e-2 and one.precision in ("fp64", "fp32") and coarse:
        return as_fault(Code.DIRECTION, "accumulated in bf16", f"{text}; relative error {error:.2g}", where)
    return None


def _changed_by_hand(one: StepComparison, text: str) -> Finding:
    """What the loop makes of a gradient: a note if it adds a little noise, or takes out a part, as by a mask."""
    evidence = f"{text}: after the last backward, before the step"
    cosine, alpha = one.comparison.cosine, one.comparison.alpha
    if cosine > 0.99 and near(alpha, 1):
        return as_note(Code.DIRECTION, BY_HAND, evidence)
    # What is left of a vector by an orthogonal projection has the product with it that it has with itself.
    if cosine > ALIKE and near(cosine**2, alpha, 1e-3):
        return as_note(Code.DIRECTION, BY_HAND, f"{evidence}: a part of it was taken out, as by a mask")
    return as_warning(Code.DIRECTION, BY_HAND, evidence, one.step.where)


def _divided_after(one: StepComparison) -> bool:
    """Whether what the backwards left was divided so that all together count as one mean."""
    held, alpha = one.held_weights, one.comparison.alpha
    equal = one.size > 1 and all(near(weight, held[0], 1e-3) for weight in held)
    items = sum(weight * batch.samples for weight, batch in zip(held, one.batches, strict=True) if batch.scale_free)
    return equal and not one.exact() and (near(alpha * sum(held), 1, 1e-3) or near(alpha * items, 1, 1e-3))


def changed_after_backward(one: StepWindow) -> bool:
    """Whether the optimiser got another direction than the last backward left."""
    last = one.step.backwards[-1].after if one.step.backwards else None
    if last is None or len(last) != len(one.gradient):
        return last is not None
    return not is_parallel(compare_gradients(one.gradient, last), one.tolerance)


def _weighs_classes(one: StepComparison) -> bool:
    """Whether micro-batches of equally many samples count by sums of weights, which are no whole numbers."""
    alike = len({batch.samples for batch in one.batches}) == 1
    return alike and any(not float(batch.count).is_integer() for batch in one.batches)


def _mostly_unequal(one: StepComparison) -> bool:
    """Whether more than one micro-batch of the window has other samples than the rest: not just a smaller last one.

    Where the tokens of equally many samples are unequal, a mean for each micro-batch may be meant.
    """
    counts = Counter(batch.samples for batch in one.batches)
    return one.size - counts.most_common(1)[0][1] > 1
