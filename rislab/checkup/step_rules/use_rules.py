"""Rules about what a loop computes and never uses: forwards without a backward, clipping and optimisers in vain."""

from __future__ import annotations

from itertools import pairwise

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import by_library
from rislab.checkup.recording.source_text import multiplies_by_written_0
from rislab.checkup.recording.trace import ForwardUse, Trace
from rislab.checkup.recording.windows import WatchedRun, near
from rislab.checkup.rules import Code

# So many backwards tell that a weight stays 0.
WITHOUT_WEIGHT = 8
# So many losses tell how large a loss is.
LAST = 8
# So many losses show a trend.
TREND = 24
# Losses of which nobody wants much: what makes them begins with one of these.
SMALL_IS_GOOD = ("NllLoss", "MseLoss", "SmoothL1Loss", "HuberLoss", "BinaryCrossEntropy", "CtcLoss")
# A factor that is no scale of a scaler.
SCALED = 16


def unused_forwards(run: WatchedRun) -> list[Finding]:
    """Forwards of one line in training mode, of which only the last before each backward was used."""
    for place, uses in run.trace.forward_uses.items():
        # Of several networks that are called at one line, one wastes its forwards as all do together.
        networks = {use.network for use in uses}
        own = [_unused_before_each_used([use for use in uses if use.network == one]) for one in networks]
        before = _unused_before_each_used(uses)
        if not _are_wasted(before) or not any(map(_are_wasted, own)):
            continue
        used = len(before)
        text = (
            f"{len(uses)} forwards in training mode at one line, and a backward came to {used} of them: "
            f"the last of every {max(before) + 1}"
        )
        where = next(
            (batch.where for batch in run.trace.micro_batches if batch.backwards),
            place[0].rpartition(":")[0] if place else "",
        )
        aliases = ("loop tail in a branch never taken",)
        return [as_fault(Code.LOSSES, "backward after the batch loop", text, where, aliases)]
    return []


def _are_wasted(before: list[int]) -> bool:
    """Whether forwards without a backward stand before each one with a backward."""
    return bool(before) and min(before) >= 1 and sum(before) > 1


def _unused_before_each_used(uses: list[ForwardUse]) -> list[int]:
    """How many forwards without a backward stand before each one with a backward."""
    counts, unused = [], 0
    for use in uses:
        if use.reached:
            counts.append(unused)
        unused = 0 if use.reached else unused + 1
    return counts


def unscaled_terms(run: WatchedRun) -> list[Finding]:
    """Backwards on what was not scaled, beside others of the same step that were: unscaling makes them vanish."""
    for one in run.comparisons:
        scale = one.step.scale
        terms = [values for batch in one.batches for values in batch.term_factors if values[0]]
        # The loop's own factors, of which the scale is one where the loss was scaled.
        scaled = [
            any(near(after / before, scale, 1e-6) for before, after in pairwise(values) if before) for values in terms
        ]
        lost = [values[-1] for values, own in zip(terms, scaled, strict=True) if not own and near(values[0], 1 / scale)]
        if scale >= SCALED and any(scaled) and lost:
            text = f"{len(lost)} of {len(terms)} losses of step {one.number} were not scaled before their backward, "
            text += f"and are divided by the scale of {scale:g} with the others: they count {lost[0]:.2g}"
            return [as_fault(Code.PRECISION, "a term not scaled", text, one.batches[0].where, ("scaler bypassed",))]
    return []


def running_sums(run: WatchedRun) -> list[Finding]:
    """Closures that return the sum of the losses since the step began, where the optimiser asks for the loss."""
    if not is_running_sum(run.trace):
        return []
    _, given, loss = max(run.trace.returned, key=lambda one: one[0])
    text = f"what the closure returns grows by the loss at each evaluation within a step, here to {given:.4g}, where "
    text += f"the loss is {loss:.4g}: the optimiser compares the numbers, and takes each of its steps for a worse one"
    where = run.trace.taken[0].where if run.trace.taken else ""
    return [as_fault(Code.LOSSES, "closure returns a running sum", text, where)]


def is_running_sum(trace: Trace) -> bool:
    """Whether each further evaluation of a closure within a step returned the loss, and what the one before had."""
    pairs = [
        (value - before, loss)
        for (_, before, _), (evaluation, value, loss) in pairwise(trace.returned)
        if evaluation > 0
    ]
    sums = [loss for growth, loss in pairs if loss and near(growth, loss, 1e-2)]
    return len(sums) >= 3 and len(sums) == len(pairs)


def clipping_in_vain(run: WatchedRun) -> list[Finding]:
    """Clipping that changed nothing that was stepped on."""
    steps = [step for step in run.trace.taken if step.applied]
    clips = [clip for step in steps for clip in step.clips]
    # A clipping of other optimisers' tensors alone is theirs.
    clips = [clip for clip in clips if clip.own or clip.foreign]
    if len(clips) < 2:
        return []
    why = ""
    if all(clip.tensors == 0 for clip in clips):
        why = "it was given no tensors, as from a generator that was used up"
    elif all(clip.foreign for clip in clips):
        why = "no optimiser holds the tensors that it was given"
    elif all(clip.late for clip in clips):
        why = "it came after the step, and before the next backward"
    if not why:
        return []
    text = f"{len(clips)} times in {len(steps)} steps: {why}"
    return [as_fault(Code.CLIPPING, "clipping changes nothing", text, steps[0].where)]


def remade_optimizers(run: WatchedRun) -> list[Finding]:
    """An optimiser that is made anew again and again, and loses its state each time."""
    trace = run.trace
    if trace.remade < 3 or not trace.stateful:
        return []
    every = trace.taken_count / (trace.remade + 1)
    text = f"{trace.remade + 1} optimisers in {trace.taken_count} steps: the state is lost every {every:.3g} steps"
    where = trace.taken[0].where if trace.taken else ""
    # Stages of a training, each with a rate of its own or with other data, may well begin with an empty state.
    kind = as_warning if trace.other_settings or _begins_other_tasks(trace) else as_fault
    return [kind(Code.WEIGHTS, "optimiser made anew", text, where)]


def _begins_other_tasks(trace: Trace) -> bool:
    """Whether most new optimisers begin at a loss far from the last ones before, as on the data of another task."""
    losses = [loss for loss, *_ in trace.raw_losses()]
    others = 0
    for place in trace.remade_at:
        last = losses[max(0, place - LAST) : place]
        if len(last) == LAST and place < len(losses):
            # Its first loss is one of the weights that the optimiser before has left.
            most, least = max(last), min(last)
            others += losses[place] > most + (most - least) / 2 or losses[place] < least / 4
    return 2 * others > len(trace.remade_at)


def only_frozen(run: WatchedRun) -> list[Finding]:
    """An optimiser all of whose tensors ask for no gradient."""
    if not run.trace.only_frozen or not run.trace.taken:
        return []
    text = f"{run.trace.taken_count} steps, and no tensor of the optimiser asks for a gradient"
    return [as_fault(Code.WEIGHTS, "optimiser holds only frozen tensors", text, run.trace.taken[0].where)]


def terms_without_weight(run: WatchedRun) -> list[Finding]:
    """Sums of which one term has a graph, and a factor of 0 in all backwards up to the end."""
    sums = [batch for batch in run.trace.micro_batches if len(batch.term_factors) > 1 and all(batch.term_factors)]
    # A weight that is to rise may not have got that far, or have risen in steps that are merged.
    ended = not run.trace.stopped and not run.trace.crashed and not len(run.trace.merged)
    # A weight of 0 in a library is an option of it, and one that is written out is meant.
    for line in {batch.call_stack for batch in sums if not by_library(batch.call_stack)} if ended else ():
        if any(map(multiplies_by_written_0, line)):
            continue
        there = [batch for batch in sums if batch.call_stack == line]
        terms = [batch.term_factors for batch in there]
        if len(terms) < WITHOUT_WEIGHT or len(set(map(len, terms))) > 1:
            continue
        lost = [all(term[0] and not term[-1] for term in places) for places in zip(*terms, strict=True)]
        if any(lost) and not all(lost):
            text = f"in all {len(terms)} backwards that were looked at, {sum(lost)} of {len(lost)} terms of the loss "
            text += "had the factor 0"
            return [as_warning(Code.LOSSES, "a term of the loss trains nothing", text, there[0].where)]
    return []


def maximised_losses(run: WatchedRun) -> list[Finding]:
    """Losses with a minus sign before all of them, that rise: an adversary's are, and hardly any other."""
    used = [batch for batch in run.trace.micro_batches if batch.backwards]
    if len(used) < TREND or any(batch.weight >= 0 or not batch.kind.startswith(SMALL_IS_GOOD) for batch in used):
        return []
    part = len(used) // 4
    first, last = (sum(batch.loss for batch in some) / part for some in (used[:part], used[-part:]))
    if last <= first:
        return []
    text = f"all {len(used)} losses that were looked at have a negative weight, and rose from {first:.4g} to {last:.4g}"
    return [as_warning(Code.LOSSES, "loss is maximised", text, used[0].where)]
