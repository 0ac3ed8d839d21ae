"""Rules about the gradients that the optimiser got: their length, direction, clipping, zeroing, NaN and infinity."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning
from rislab.checkup.recording.gradients import compare_gradients
from rislab.checkup.recording.windows import StepComparison, StepWindow, WatchedRun, near
from rislab.checkup.rules import Code
from rislab.checkup.step_rules.clipping import is_clipped, is_cut_off, is_too_long, norm_of, unclipped
from rislab.checkup.step_rules.gradient_faults import BY_HAND, UNEQUAL, changed_after_backward, fault_of, wrong_weights

# What a step is called whose gradient fits no known fault.
UNNAMED = ("gradient scale", "gradient direction")
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
    named = [fault_of(one, before.get(one.number), run) for one in differing]
    # Unequal micro-batches hide what their weights say.
    hidden = [one for one, finding in zip(differing, named, strict=True) if finding.name == UNEQUAL]
    weighed = [one for one in own if one.scale_free and (one in hidden or one not in differing)]
    named += [finding for one in weighed for finding in wrong_weights(one, run)]
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
    return (run.trace.by_library or run.trace.among_ranks) and given and changed_after_backward(one)


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
