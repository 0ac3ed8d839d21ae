"""Rules about the gradients that the optimiser got: their length, direction, clipping, zeroing, NaN and infinity."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

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
    is_clipped,
    is_cut_off,
    is_too_long,
    limit_of,
    norm_of,
    only_shorter,
    right_after_backward,
    unclipped,
)
from rislab.checkup.step_rules.terms_in_a_loop import (
    are_terms,
    divided_again,
    factors_of,
    is_one_sequence,
    shares_of,
    undivided,
)

# What a step is called whose gradient fits no known fault.
UNNAMED = ("gradient scale", "gradient direction")
UNEQUAL = "mean of means in the window"
BY_HAND = "gradient changed by hand"
# So many windows that agree are no accident.
TWO = 2


def nonfinite_gradients(run: WatchedRun) -> list[Finding]:
    """NaN and infinity that were stepped on, or that were made into numbers."""
    findings = []
    for window in () if run.trace.stale else run.windows:
        step = window.step
        if not step.finite:
            text = f"NaN or infinity in the gradient of step {window.number}, which was taken"
            name, other = "scaler bypassed", "NaN reached a step"
            names = (name,) if run.declared.scaler else (other, name)
            aliases = (*names[1:], "overflow looked up under a wrong key")
            findings.append(as_fault(Code.NAN, names[0], text, step.where, aliases))
        elif window.true is not None and not bool(torch.isfinite(window.true).all()):
            text = f"the true gradient of step {window.number} holds NaN or infinity, and the one stepped on does not"
            aliases = ("NaN guard in the loop",)
            findings.append(as_fault(Code.NAN, "NaN made 0 in the gradient", text, step.where, aliases))
    return findings


def wrong_gradients(run: WatchedRun) -> list[Finding]:
    """Steps whose gradient is not that of their window, each with the fault that makes such a gradient."""
    if run.trace.stale:
        return []
    if run.trace.copies:
        text = "the optimiser steps on copies of the weights, whose gradients the loop fills in"
        return [as_note(Code.GRADIENT_SCALE, "not judged", text)]
    findings, off = [], run.begins_off_by_one
    # Windows that are too long are named as such. Off by one, whole windows show their scale, not whom they belong to.
    own = [one for one in run.comparisons if one.size <= run.size or (run.source != "declared" and run.size == 1)]
    own = [one for one in own if one.size == run.size and one.parallel()] if off else own
    differing = [one for one in own if not one.exact() and not is_clipped(one, run)]
    infinite = [one for one in differing if norm_of(one) == 0 and not math.isfinite(one.step.other_norm)]
    if infinite:
        text = f"{len(infinite)} steps on a gradient of 0, as another optimiser's was infinite"
        findings.append(as_note(Code.CLIPPING, "clipped by an infinite norm", text))
    differing = [one for one in differing if one not in infinite and one.complete and not _weighed(one, run)]
    made = [one for one in differing if made_by_library(one, run)]
    own, differing = ([one for one in some if one not in made] for some in (own, differing))
    if made:
        text = f"{len(made)} steps on gradients that a library, or other ranks, changed after the backward"
        findings.append(as_note(Code.DIRECTION, BY_HAND, text))
    before = {one.number + 1: one for one in run.comparisons}
    named = [_fault_of(one, before.get(one.number), run) for one in differing]
    # Unequal micro-batches hide what their weights say.
    hidden = [one for one, finding in zip(differing, named, strict=True) if finding.name == UNEQUAL]
    weighed = [one for one in own if one.scale_free and (one in hidden or one not in differing)]
    named += [finding for one in weighed for finding in _wrong_weights(one, run)]
    named += [unclipped(one, run) for one in run.comparisons if is_too_long(one, run)]
    if 2 * len(differing) < len(own):
        # Most windows got their gradient as it is: what the loop does in some is a choice of its own.
        named = [as_note(Code.DIRECTION, one.name, one.evidence) if one.name == BY_HAND else one for one in named]
    names = [finding.name for finding in named]
    named = [one for place, one in enumerate(named) if one.severity != "note" or one.name not in names[:place]]
    # Where one window names its fault, what is left of it in the others says less.
    findings += [finding for finding in named if finding.name not in UNNAMED] or named
    if off:
        findings = [replace(one, evidence=f"{one.evidence}; under windows that are off by one") for one in findings]
    # As nonfinite_gradients() says more, clipping is then no matter.
    evident = run.declared.clip_norm is None and any(not one.exact() for one in own)
    if evident and not findings and not nonfinite_gradients(run):
        lengths, numbers = "gradients have the direction of their window, and one length", "larger numbers are cut off"
        text = f"{numbers} in the gradients of their windows" if any(map(is_cut_off, own)) else lengths
        findings.append(as_note(Code.CLIPPING, "clipping assumed", text))
    return findings


def made_by_library(one: StepWindow, run: WatchedRun) -> bool:
    """Whether a library, or the other ranks, have changed the direction of what the last backward left."""
    given = one.step.gradient is not None and one.step.norm != 0
    return (run.trace.by_library or run.trace.among_ranks) and given and _changed_after_backward(one)


def _weighed(one: StepComparison, run: WatchedRun) -> bool:
    """Whether the loop weighed losses that are no means, in a way of its own, and the optimiser got just that."""
    held = one.held_weights
    # A declared mean says nothing of sums, in which each item counts once.
    meant = bool(run.declared.mean) and any(batch.count != 1 for batch in one.batches)
    if meant or not all(batch.scale_free for batch in one.batches) or not all(held):
        return False
    equal = all(near(weight, held[0], 1e-6) for weight in held)
    gradients = [
        weight * batch.gradient for weight, batch in zip(held, one.batches, strict=True) if batch.gradient is not None
    ]
    given = torch.stack(gradients).sum(dim=0)
    return not equal and compare_gradients(one.gradient, given).relative_error <= one.tolerance


# The fault that makes such a gradient.


def _wrong_weights(one: StepComparison, run: WatchedRun) -> list[Finding]:
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


def divided_in_vain(run: WatchedRun) -> list[Finding]:
    """Losses that are divided by a whole number, where each step comes after one of them."""
    if run.size != 1 or run.source == "declared" or not run.comparisons:
        return []
    divisors = {divisor for one in run.comparisons for batch in one.batches for divisor in batch.divisors[:1] or (1.0,)}
    divisor = divisors.pop() if len(divisors) == 1 else 1.0
    # A mean over the batch may be a sum that is divided.
    samples = {float(batch.samples) for one in run.comparisons for batch in one.batches}
    if divisor < 3 or not near(divisor, round(divisor), 1e-4) or round(divisor) in samples:
        return []
    # Where a class calls several networks itself, the last of them may count other samples.
    if all(batch.scale_free and batch.count == 1 for one in run.comparisons for batch in one.batches):
        return []
    text = f"each loss is divided by {divisor:g}, and each step comes after one: {len(run.windows)} windows of 1"
    evidence = f"{text}, as of a loop that was to accumulate"
    return [as_warning(Code.WINDOW_SIZE, "step per micro-batch", evidence, run.comparisons[0].step.where)]


def unequal_terms(run: WatchedRun) -> list[Finding]:
    """Sums of which one term is divided by the size of the window, and another is not."""
    for one in run.comparisons:
        share = 1 / one.size
        for batch in one.batches if one.size > 1 else ():
            divided = [
                any(near(after / before, share, 1e-3) for before, after in itertools.pairwise(values) if before)
                for values in batch.term_factors
            ]
            if any(divided) and not all(divided):
                text = (
                    f"{sum(divided)} of {len(divided)} terms of the loss are divided by {one.size}, the others are not"
                )
                certain = run.source == "declared"
                if not certain and _divides_some_terms(run):
                    certain = True
                    text += f", in each of {len(run.comparisons)} windows of {run.size}; the means among them count one"
                kind = as_fault if certain else as_warning
                return [kind(Code.GRADIENT_SCALE, "a term not divided", text, batch.where)]
    return []


def _divides_some_terms(run: WatchedRun) -> bool:
    """Whether each micro-batch is divided by the size of its window in the same terms, all known means among them.

    A weight of a term may be 1/K by chance, but is no division; nor is one by 2, as of half a square.
    """
    batches = [batch for one in run.comparisons for batch in one.batches]
    exact = all(one.size == run.size and one.exact() for one in run.comparisons)
    if not exact or run.size < 3 or len(run.comparisons) < TWO:
        return False
    # A term with a weight of 0 in some micro-batches comes once a window.
    divided = {
        tuple(
            any(near(one, run.size, 1e-3) for one in divisors) if all(values) else None
            for values, divisors in zip(batch.term_factors, batch.term_divisors, strict=False)
        )
        for batch in batches
    }
    means = all(batch.term_weights and near(sum(batch.term_weights), 1 / run.size, 1e-3) for batch in batches)
    return means and len(divided) == 1 and {*divided.pop()} >= {True, False}


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


def _fault_of(one: StepComparison, before: StepComparison | None, run: WatchedRun) -> Finding:
    """The finding for a step that does not have the gradient of its window."""
    text = f"{one.numbers()}, K = {run.size} ({run.source})"
    if norm_of(one) == 0:
        evidence = f"a gradient of 0 at step {one.number}; {text}"
        return as_fault(Code.ZEROING, "zeroed before the step", evidence, one.step.where)
    if one.parallel():
        return _wrong_length(one, text, run)
    aliases = ("never zeroed", "clipped per micro-batch" if one.step.clips else "left-overs leak")
    if _changed_after_backward(one) and (one.step.is_clipped_in_parts(run.trace.tensors) or only_shorter(one, run)):
        return as_note(Code.CLIPPING, "clipping assumed", f"{text}: its tensors are clipped in several parts")
    named = _wrong_direction(one, text, run) or _wrong_counts(one, before, text, run)
    if named is None and _changed_after_backward(one):
        evidence = f"{text}: after the last backward, before the step"
        return as_warning(Code.DIRECTION, BY_HAND, evidence, one.step.where)
    return named or as_fault(Code.DIRECTION, "gradient direction", text, one.step.where, aliases)


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
        if rest.cosine > 0.99 and rest.alpha > LOOSE:
            name = "never zeroed" if near(rest.alpha, 1) else "left-overs leak"
            share = "whole" if name == "never zeroed" else f"{rest.alpha:.3g} times"
            evidence = f"{text}; the last step's gradient is in it {share}"
            return as_fault(Code.DIRECTION, name, evidence, where)
    if any(zeroed):
        return as_fault(
            Code.ZEROING, "zeroed per micro-batch", counts, where, ("left-overs leak", "tail never stepped")
        )
    if right_after_backward(one) and not bool((one.gradient.bfloat16() == one.gradient).all()):
        evidence = f"{text}: after the last backward, before the step"
        if one.comparison.cosine > 0.99 and near(one.comparison.alpha, 1):
            # A little noise.
            return as_note(Code.DIRECTION, BY_HAND, evidence)
        return as_warning(Code.DIRECTION, BY_HAND, evidence, where)
    error, scale = one.comparison.relative_error, one.step.scale
    coarse = bool(((one.gradient * scale).bfloat16() == one.gradient * scale).all())
    if error < 2e-2 and one.precision in ("fp64", "fp32") and coarse:
        return as_fault(Code.DIRECTION, "accumulated in bf16", f"{text}; relative error {error:.2g}", where)
    return None


def _divided_after(one: StepComparison) -> bool:
    """Whether what the backwards left was divided so that all together count as one mean."""
    held, alpha = one.held_weights, one.comparison.alpha
    equal = one.size > 1 and all(near(weight, held[0], 1e-3) for weight in held)
    items = sum(weight * batch.samples for weight, batch in zip(held, one.batches, strict=True) if batch.scale_free)
    return equal and not one.exact() and (near(alpha * sum(held), 1, 1e-3) or near(alpha * items, 1, 1e-3))


def _changed_after_backward(one: StepWindow) -> bool:
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
