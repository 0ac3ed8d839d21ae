"""Rules about losses: which of them reach a step, their number formats, NaN and infinity, and their mode."""

from __future__ import annotations

import math

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning
from rislab.checkup.recording.trace import NO_WEIGHT, MicroBatch, Step, Trace
from rislab.checkup.recording.windows import WatchedRun
from rislab.checkup.rules import Code
from rislab.checkup.step_rules.schedule_rules import ticks_instead_of_steps

# A scaler begins at 2^16, and has gone down to 1 after so many skips.
SKIPS = 17
# With a scale of no more than this, gradients of float16 overflow only where they are larger than 64 themselves.
LOW_SCALE = 1024
# A larger share of losses that are no numbers is no rare overflow, which a scaler is there for.
FEW = 0.05


def unused_losses(run: WatchedRun) -> list[Finding]:
    """Losses and backwards that did not reach a step, or should not have."""
    batches = run.trace.micro_batches
    return _why_no_step(batches, run) if batches else _without_losses(run.trace)


def _without_losses(trace: Trace) -> list[Finding]:
    counts = f"{trace.forwards} forwards with gradients, {trace.step_count} steps"
    norms = _norms(trace)
    if any(norms) and (trace.detached_losses or not trace.backwards):
        return [_by_hand(counts)]
    if trace.detached_losses:
        text = f"{counts}; {trace.detached_losses} losses were intercepted, and none of them depends on the weights"
        # The last loss before a step is most often the one that was to lead to it.
        where = trace.detached_before_step or trace.detached_last[1]
        return [as_fault(Code.LOSSES, "loss detached", text, where)]
    if not trace.forwards and not trace.steps and len(trace.unchanged) == trace.tensors:
        return [as_fault(Code.LOSSES, "nothing was trained", counts)]
    if not trace.forwards and not any(norms):
        text = f"{counts}, all of them on gradients of 0"
        return [as_fault(Code.LOSSES, "steps without a forward", text, trace.steps[0].where)]
    why = "no loss was intercepted: give watch() the loss, or call watch.loss in the loop"
    return [as_note(Code.LOSSES, "not judged", f"{counts}, and {why}")]


def _norms(trace: Trace) -> list[float]:
    return [step.norm for step in trace.steps if not math.isnan(step.norm)]


def _by_hand(counts: str) -> Finding:
    """Gradients without any backward, as by a transform of functions, by differences, or within a compiled step."""
    return as_note(Code.STEPS, "gradients by hand", f"{counts}; what puts the gradients there was not seen")


def _why_no_step(batches: list[MicroBatch], run: WatchedRun) -> list[Finding]:
    """Why no step was taken, or why losses did not reach one."""
    trace = run.trace
    used = sum(batch.backwards > 0 or batch.by_hand for batch in batches) + trace.merged.kinds_of_losses["used"]
    counts = f"{len(batches) + trace.merged.losses} losses, {used} with a backward, {trace.step_count} steps"
    where = batches[0].where
    reasons = dict.fromkeys(batch.why for batch in batches if batch.why and "carries no gradient" not in batch.why)
    if run.comparisons:
        # Where others have some, a loss without weight adds nothing that could be judged.
        reasons.pop(NO_WEIGHT, None)
    findings = [as_note(Code.GRADIENT_SCALE, "not judged", why) for why in reasons]
    if all("carries no gradient" in batch.why for batch in batches):
        return [*findings, as_fault(Code.LOSSES, "loss detached", counts, where)]
    if used and all(batch.why == NO_WEIGHT for batch in batches if batch.backwards) and not any(_norms(trace)):
        text = f"{counts}: each was multiplied by 0 before its backward, and all gradients are 0"
        return [as_fault(Code.WEIGHTS, "main loss weight 0", text, where)]
    moved = len(trace.unchanged) < trace.tensors
    if used == 0 and not moved:
        # Backwards that came to none of the losses began at something else.
        name, other = ("loop tail in a branch never taken", "loss detached")[:: -1 if trace.backwards else 1]
        return [*findings, as_fault(Code.LOSSES, name, counts, where, (other, "backward after the batch loop"))]
    applied = any(step.applied for step in trace.steps)
    if not applied and trace.steps and _only_scaled(batches, trace):
        text = f"{counts}, all of them skipped by the scaler, whose scale is {trace.steps[-1].scale:g} by now"
        return [*findings, as_note(Code.GRADIENT_SCALE, "not judged", f"{text}: the losses are numbers")]
    if not applied and all(batch.nonfinite for batch in batches if batch.backwards):
        text = f"{counts}, none of them on numbers: every loss or gradient holds NaN or infinity"
        aliases = ("singular vectors differentiated", "step gate too strict")
        return [*findings, as_fault(Code.NAN, "infinity in every step", text, where, aliases)]
    if not applied and len(trace.steps) > SKIPS:
        text = f"{trace.step_count} steps, all of them skipped; the loss scale is {trace.steps[-1].scale:g}"
        return [*findings, as_fault(Code.NAN, "infinity in every step", text, where, ("scaler bypassed",))]
    if not trace.steps and moved:
        text = f"{counts}, and the weights moved: steps are not judged"
        return [*findings, as_note(Code.STEPS, "updated by hand", text)]
    instead = "" if trace.steps else ticks_instead_of_steps(trace)
    if instead:
        return [*findings, as_fault(Code.SCHEDULER, "scheduler stepped instead of the optimiser", instead, where)]
    if not trace.steps:
        aliases = ("step gate too strict", "loop tail in a branch never taken")
        return [*findings, as_fault(Code.STEPS, "step in a branch never taken", counts, where, aliases)]
    return [*findings, *_without_a_backward(run, counts)]


def _is_put_there(trace: Trace) -> bool:
    """Whether steps had gradients though no backward had come to the weights, as of copies that the loop trains."""
    given = [step for step in trace.steps if step.norm > 0]
    return bool(given) and not any(backward.own for step in given for backward in step.backwards)


def _only_scaled(batches: list[MicroBatch], trace: Trace) -> bool:
    """Whether the loss scale alone may have made the gradients infinite: it goes down as long as they are."""
    scales = [step.scale for step in trace.steps]
    return all(math.isfinite(batch.loss) for batch in batches) and min(scales) > LOW_SCALE


def _without_a_backward(run: WatchedRun, counts: str) -> list[Finding]:
    recorded = [batch for step, _ in run.steps for batch in step.micro_batches]
    if any(batch.by_hand for batch in recorded):
        text = f"{counts}; gradients by torch.autograd.grad() are not compared"
        return [as_note(Code.STEPS, "gradients by hand", text)]
    if all(batch.backwards for batch in recorded):
        return []
    if _is_put_there(run.trace):
        return [_by_hand(counts)]
    unused = [batch for step, _ in run.steps for batch in step.micro_batches if not batch.backwards]
    if len(unused) == len(run.steps[-1][0].micro_batches) and not any(batch.backwards for batch in run.steps[-1][1]):
        text = f"{counts}: the last {len(unused)} losses had no backward, as of a last pass over the data"
        return [as_note(Code.LOSSES, "forwards that reached no step", text)]
    if _used_in_turn(recorded):
        text = f"{counts}: of losses that are computed together, one after the other has a backward"
        return [as_note(Code.LOSSES, "forwards that reached no step", text)]
    if all(batch.nonfinite for batch in unused):
        text = f"{len(unused)} losses were NaN or infinite, and the loop went on without a backward of them: {counts}"
        aliases = ("NaN made 0 in the gradient",)
        return [as_warning(Code.NAN, "NaN guard in the loop", text, unused[0].where, aliases)]
    long = [(step, batches) for step, batches in run.steps if len(batches) > 1]
    last = any(batches[-1].backwards for _, batches in long)
    if last and not any(batch.backwards for _, batches in long for batch in batches[:-1]):
        aliases = ("loop tail in a branch never taken",)
        return [as_fault(Code.LOSSES, "backward after the batch loop", counts, long[0][0].where, aliases)]
    return [as_warning(Code.LOSSES, "forwards that reached no step", counts)]


def _used_in_turn(batches: list[MicroBatch]) -> bool:
    """Whether each round of losses, one of each line, has one with a backward, and each line has some."""
    rounds: list[dict[tuple[str, ...], bool]] = []
    for batch in batches:
        if not rounds or batch.call_stack in rounds[-1]:
            rounds.append({})
        rounds[-1][batch.call_stack] = batch.backwards > 0
    lines = {line for one in rounds for line in one}
    used = {line for one in rounds for line, reached in one.items() if reached}
    return len(lines) > 1 and lines == used and all(any(one.values()) for one in rounds)


def number_formats(run: WatchedRun) -> list[Finding]:
    """float16 without a scaler, and a scaler without float16."""
    findings = []
    batches, scaler = run.trace.micro_batches, run.declared.scaler
    half = next((batch for batch in batches if batch.precision == "fp16"), None)
    if half is not None and not scaler:
        text = "float16, and no scaler was given" if scaler is None else "float16, and the scaler is disabled"
        kind = as_warning if scaler is None else as_fault
        evidence = f"{text}: gradients below 6e-8 are 0"
        findings.append(kind(Code.PRECISION, "scaler only where CUDA is", evidence, half.where))
    if scaler and batches and all(batch.precision in ("fp32", "fp64") for batch in batches):
        total = len(batches) + run.trace.merged.losses
        text = f"the scaler is enabled, and all {total} losses are in {batches[0].precision}"
        findings.append(as_warning(Code.PRECISION, "scaler without autocast", text, batches[0].where))
    return findings


def nonfinite_losses(run: WatchedRun) -> list[Finding]:
    """Losses that are NaN or infinity."""
    batches = run.trace.micro_batches
    lost = [batch for batch in batches if not math.isfinite(batch.loss)]
    if not lost:
        return []
    aliases = ("epsilon vanishes in half precision", "squares overflow in half precision")
    merged = run.trace.merged
    count, total = len(lost) + merged.kinds_of_losses["not finite"], len(batches) + merged.losses
    text = f"NaN or infinity in {count} of {total} losses, in {lost[0].precision}"
    skipped = [batch for step in run.trace.steps if not step.applied for batch in step.micro_batches]
    if run.declared.scaler and count <= FEW * total and all(any(batch is one for one in skipped) for batch in lost):
        text = f"{text}, whose steps the scaler skipped, at {lost[0].where}"
        return [as_note(Code.NAN, "losses that are no numbers", text)]
    return [as_warning(Code.NAN, "losses that are no numbers", text, lost[0].where, aliases)]


def evaluation_mode(run: WatchedRun) -> list[Finding]:
    """Training losses that were computed in evaluation mode."""
    batches = run.trace.micro_batches
    # A pass whose gradients are thrown away before the step, as that of an attack, trains nothing.
    used = {
        id(batch)
        for step in run.trace.steps
        if _is_zeroing_known(step)
        for batch in step.micro_batches
        if step.holds(batch)
    }
    evaluated = [batch for batch in batches if not batch.training and (id(batch) in used or not run.trace.steps)]
    if not evaluated:
        return []
    merged = run.trace.merged
    count, total = len(evaluated) + merged.kinds_of_losses["evaluated"], len(batches) + merged.losses
    text = f"{count} of {total} training losses in evaluation mode"
    if count == total and run.trace.frozen_norms and not run.trace.mode_dependent:
        return [as_note(Code.MODE, "eval never undone", f"{text}, as of a head on a network whose BatchNorm is frozen")]
    kind = as_fault if count < total or run.trace.mode_dependent else as_warning
    return [kind(Code.MODE, "eval never undone", text, evaluated[0].where)]


def _is_zeroing_known(step: Step) -> bool:
    """Whether what was zeroed before a step is known: of windows that are compared, or those of one mode."""
    modes = {batch.training for batch in step.micro_batches}
    return len(modes) < 2 or all(backward.fresh is not None for backward in step.backwards)
