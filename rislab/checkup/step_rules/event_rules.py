"""Rules about counts of events: losses that reach a step, sizes of windows, weights that move, modes."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning, listed
from rislab.checkup.recording.trace import NO_WEIGHT, MicroBatch, Step, Trace
from rislab.checkup.recording.windows import LOOSE, StepComparison, StepWindow, WatchedRun, extra_micro_batches, near
from rislab.checkup.rules import Code
from rislab.checkup.step_rules.gradient_rules import made_by_library
from rislab.checkup.step_rules.schedule_rules import ticks_instead_of_steps
from rislab.checkup.step_rules.use_rules import is_running_sum

# A scaler begins at 2^16, and has gone down to 1 after so many skips.
SKIPS = 17
# With a scale of no more than this, gradients of float16 overflow only where they are larger than 64 themselves.
LOW_SCALE = 1024
# A larger share of losses that are no numbers is no rare overflow, which a scaler is there for.
FEW = 0.05
# So many windows of one size are no ends of short epochs by accident.
SHORT_WINDOWS = 3
# So many steps tell that two factors that begin at 0 stay there, as a chain of them does not.
DEAD = 8
# Other names for tensors that stay where they are.
PARTLY_FROZEN = ("head frozen", "warm-up counted in samples")


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


# Windows.


def batch_statistics(run: WatchedRun) -> list[Finding]:
    """Layers that normalise over a micro-batch, where one large batch would have other statistics."""
    layers, used = run.trace.batch_norms, [batch for batch in run.trace.micro_batches if batch.training]
    if not layers or run.size == 1 or not used:
        return []
    over = f"{used[0].samples} samples of a micro-batch, not over those of the window, K = {run.size} ({run.source})"
    text = f"statistics of {layers} BatchNorm layers are over the {over}: one large batch would have others"
    return [as_note(Code.DIRECTION, "batch statistics per micro-batch", text)]


def window_sizes(run: WatchedRun) -> list[Finding]:
    """Windows that are larger or smaller than they should be, steps without a loss, and losses without a step."""
    if not run.steps or not run.trace.micro_batches:
        return []
    findings = []
    empty = [step for step, _ in run.steps if not step.micro_batches]
    merged = run.trace.merged
    again = len(empty) + merged.sizes[0] - run.trace.idle
    if empty and again > 0:
        text = f"{again} of {len(run.steps) + len(merged)} steps came without a new loss"
        findings.append(as_fault(Code.WINDOW_SIZE, "stepped twice", text, empty[0].where))
    # A loop that meets NaN may throw a window away: the places of the others then say nothing.
    sizes = [window.size for window in run.windows]
    if not sizes:
        return findings
    text = f"windows of {listed(sizes, 8, len(merged))} micro-batches, K = {run.size} ({run.source})"
    first, epochs = run.windows[0].step.where, run.declared.epochs
    long = max(sizes) > run.size and (run.declared.accumulation_steps is not None or run.size > 1)
    counts = Counter(sizes) + merged.sizes
    if run.size > 1 and len(sizes) > 1 and counts[1] > counts.total() / 2:
        merged_windows = sum(_make_one_mean(window, run.size) for window in run.windows) + _sums_over_forwards(run)
        if merged_windows > len(sizes) / 2:
            return findings
        findings.append(as_fault(Code.WINDOW_SIZE, "step per micro-batch", text, first))
    elif run.begins_off_by_one:
        findings.append(as_fault(Code.WINDOW_SIZE, "window off by one", text, first))
    elif long and all(batch.backwards for window in run.windows for batch in window.step.micro_batches):
        findings += _too_long(run, text)
    elif len(sizes) > SHORT_WINDOWS and len(counts) == 1 and sizes[0] < run.size:
        # Epochs of fewer than K micro-batches end their only window early.
        kind = as_fault if epochs is not None and counts.total() > epochs else as_warning
        aliases = ("window off by one", "step per micro-batch")
        findings.append(kind(Code.WINDOW_SIZE, "window size", text, first, aliases))
    left = [batch for batch in run.trace.left if batch.backwards and not _thrown_away(batch, run.trace)]
    if left and len(left) < run.size and not findings and not any(batch.nonfinite for batch in left):
        text = f"{len(left)} micro-batches with a backward came after the last step, K = {run.size} ({run.source})"
        # Whole windows over several epochs: they are carried over, and only the last of the run is lost.
        carried = epochs is not None and epochs > 1
        kind = as_fault if run.source == "declared" and not carried else as_warning
        findings.append(kind(Code.STEPS, "tail never stepped", text, left[-1].where, ("left-overs leak",)))
    return findings


def _make_one_mean(window: StepWindow, size: int) -> bool:
    """Whether what counts as one micro-batch are K losses that make one mean: of K lines, or summed up before."""
    held = [batch for batch in window.step.micro_batches if window.step.holds(batch)]
    weights = [weight for batch in held for weight in batch.term_weights or (batch.weight,)]
    return len(weights) == size and near(sum(weights), 1, 1e-3)


def _sums_over_forwards(run: WatchedRun) -> int:
    """Windows whose one loss is a sum of K sums, after at least K forwards: they were added up before the backward."""
    last = (window.step.micro_batches[-1:] for window in run.windows)
    forwards = [0, *(batches[0].forward if batches else 0 for batches in last)]
    made = (after - before for before, after in pairwise(forwards))
    held = [[batch for batch in window.step.micro_batches if window.step.holds(batch)] for window in run.windows]
    terms = [batches[0].terms if len(batches) == 1 else 0 for batches in held]
    return sum(number >= run.size == term for number, term in zip(made, terms, strict=True))


def _thrown_away(batch: MicroBatch, trace: Trace) -> bool:
    """Whether whatever its line gave was zeroed before a step, as the generator's loss is in a discriminator."""
    before = [(step, other) for step in trace.steps for other in step.micro_batches]
    same_line = [(step, other) for step, other in before if other.call_stack == batch.call_stack]
    return bool(same_line) and not any(step.holds(other) for step, other in same_line)


def _too_long(run: WatchedRun, text: str) -> list[Finding]:
    """Windows with more than K micro-batches: were the first ones lost, or do they leak into the step?"""
    long = [window for window in run.windows if window.size > run.size]
    if run.source != "declared" and (
        all(map(_has_its_shares, long))
        or any(made_by_library(window, run) for window in run.windows)
        or _in_stretches(long)
        or _divided_after(run)
    ):
        # Windows that are meant to differ, as those of so many tokens each, or of a K that changes with the epochs.
        return []
    where = run.windows[0].step.where
    if run.windows[0].size > run.size:
        # No window came before it that could leak into it.
        aliases = ("step gate too strict", "window off by one", "tail never stepped", "left-overs leak")
        return [as_fault(Code.WINDOW_SIZE, "window size", text, where, aliases)]
    for window in run.windows:
        weights = extra_micro_batches(window, run.size)
        if weights is not None:
            where = window.step.where
            if all(abs(weight) < LOOSE for weight in weights):
                return [as_fault(Code.ZEROING, "tail never stepped", text, where, ("left-overs leak",))]
            break
    return [as_fault(Code.WINDOW_SIZE, "left-overs leak", text, where, ("tail never stepped", "step gate too strict"))]


def _divided_after(run: WatchedRun) -> bool:
    """Whether all losses are sums, whose gradients the loop divides once a window has enough of them."""
    return bool(run.comparisons) and all(
        one.parallel() and not near(one.comparison.alpha, 1) and all(batch.scale_free for batch in one.batches)
        for one in run.comparisons
    )


def _in_stretches(windows: list[StepWindow]) -> bool:
    """Whether each window follows, or is followed by, one of its own size; what an epoch leaves over stands alone."""
    sizes = {window.number: window.size for window in windows}
    return all(size in (sizes.get(number - 1), sizes.get(number + 1)) for number, size in sizes.items())


def _has_its_shares(window: StepWindow) -> bool:
    """Whether all micro-batches of a window count, and together as one mean of all."""
    weights = window.held_weights
    return all(weights) and near(sum(weights), 1, 1e-3) and isinstance(window, StepComparison) and window.exact()


# Weights.


def unmoved_weights(run: WatchedRun) -> list[Finding]:
    """Tensors that never moved, that no optimiser holds, or that are no longer the network's."""
    trace, findings = run.trace, []
    if trace.stale:
        missing = f"{len(trace.unoptimised)} trainable tensors are not in the optimiser"
        text = f"{missing}, which holds {trace.orphaned} others"
        return [as_fault(Code.WEIGHTS, "optimiser holds stale parameters", text)]
    if trace.unoptimised:
        text = f"trainable, and held by no group: {listed(trace.unoptimised)}"
        findings.append(as_warning(Code.WEIGHTS, "not in the optimiser", text))
    if trace.of_one_storage:
        text = f"the optimiser moves each of them on the gradient of a part of its uses: {listed(trace.of_one_storage)}"
        findings.append(as_warning(Code.WEIGHTS, "tensors of one storage", text))
    if trace.frozen:
        findings.append(_of_frozen(trace))
    trained = bool(trace.micro_batches)
    if trace.bf16_tensors and not trace.full_tensors and trained and any(step.applied for step in trace.steps):
        text = (
            f"all {trace.bf16_tensors} larger tensors hold nothing but numbers of bfloat16: "
            f"what moves a weight by less than 1/256 of itself is lost"
        )
        findings.append(as_warning(Code.WEIGHTS, "weights kept in bf16", text))
    moving = [step for step in trace.steps if step.applied and max(step.rates, default=0.0) > 0]
    stuck = [name for name in trace.unchanged if name not in {*trace.unoptimised, *trace.set_aside}]
    if trace.equal_units and len(moving) >= DEAD:
        text = f"all units of {listed(trace.equal_units)} began as one, and were one after {len(moving)} steps"
        findings.append(as_fault(Code.WEIGHTS, "units that stay equal", text))
    if not moving or not stuck or not trained:
        return findings
    if trace.rounding_only and len(stuck) < trace.tensors:
        why = "never moved, as their true gradient is 0, like that of a bias before BatchNorm"
        findings.append(as_note(Code.WEIGHTS, "gradient of rounding alone", f"{why}: {listed(trace.rounding_only)}"))
        stuck = [name for name in stuck if name not in trace.rounding_only]
    chosen = _alike(stuck, trace.at_times) if len(stuck) < trace.tensors else []
    if chosen:
        text = f"no gradient came to {listed(chosen)}; to others of their kind one comes at times, as to experts"
        findings.append(as_note(Code.WEIGHTS, "detached backbone", text, PARTLY_FROZEN))
        stuck = [name for name in stuck if name not in chosen]
    idle = [name for name in stuck if name in trace.idle_parts]
    if idle:
        text = f"no gradient came to {listed(idle)}, of a last block; the same parts of the blocks before it have moved"
        findings.append(as_note(Code.WEIGHTS, "detached backbone", text, PARTLY_FROZEN))
        stuck = [name for name in stuck if name not in idle]
    dead = [name for name in stuck if name in trace.zeros]
    if len(dead) > 1 and len(stuck) < trace.tensors and len(moving) >= DEAD:
        # One of two factors may begin at 0: the other one passes it a gradient. Of both, no step moves either.
        text = f"{listed(dead)} began at 0 throughout, and never moved in {len(moving) + len(trace.merged)} steps"
        findings.append(as_fault(Code.WEIGHTS, "units that stay equal", text, aliases=("detached backbone",)))
        stuck = [name for name in stuck if name not in dead]
    return [*findings, *(_why_unmoved(stuck, moving, trace) if stuck else [])]


def _alike(names: list[str], others: list[str]) -> list[str]:
    """Names of which another list has one with other numbers in it, and so the same part of a sibling."""
    kinds = {re.sub(r"\d+", "0", name) for name in others}
    return [name for name in names if (kind := re.sub(r"\d+", "0", name)) != name and kind in kinds]


def _of_frozen(trace: Trace) -> Finding:
    """A note that tensors are frozen; a warning if one of them, 0 throughout, lets nothing through."""
    text, lost = f"{trace.frozen} ask for no gradient", [name for name in trace.zeros if name not in trace.unchanged]
    if lost and len(trace.unchanged) < trace.tensors:
        text += f", and of these {listed(lost)} {'is' if len(lost) == 1 else 'are'} 0 throughout: nothing comes through"
        return as_warning(Code.WEIGHTS, "frozen tensors", text, aliases=("head frozen",))
    return as_note(Code.WEIGHTS, "frozen tensors", text, ("head frozen",))


def _why_unmoved(stuck: list[str], moving: list[Step], trace: Trace) -> list[Finding]:
    text = f"{len(stuck)} tensors never moved in {len(moving) + len(trace.merged)} steps: {listed(stuck)}"
    rate = f"the largest learning rate was {max(max(step.rates) for step in moving):.2g}"
    if len(stuck) + len({*trace.unoptimised, *trace.set_aside}) < trace.tensors:
        # A bias, or an embedding that is not used, is no whole part of a network, as a codebook is.
        if len(stuck) == 1 and stuck != trace.loose_matrices:
            return [as_note(Code.WEIGHTS, "detached backbone", f"{text}; {rate}", PARTLY_FROZEN)]
        return [as_warning(Code.WEIGHTS, "detached backbone", f"{text}; {rate}", aliases=PARTLY_FROZEN)]
    if is_running_sum(trace):
        return []
    losses = [batch.loss for batch in trace.micro_batches]
    if losses and all(loss == 0 for loss in losses):
        return [as_fault(Code.WEIGHTS, "main loss weight 0", f"all {len(losses)} losses are 0; {text}")]
    norms = [step.norm for step in moving if not math.isnan(step.norm)]
    if norms and not any(norms):
        if any(batch.gradient is not None and bool(batch.gradient.any()) for batch in trace.micro_batches):
            # They were zeroed before the step, which wrong_gradients() says.
            return []
        aliases: tuple[str, ...] = ("main loss weight 0", "zeroed before the step")
        return [as_fault(Code.WEIGHTS, "loss detached", f"all gradients are 0; {text}", aliases=aliases)]
    aliases = ("warm-up counted in samples",)
    return [as_fault(Code.WEIGHTS, "weights kept in bf16", f"{rate}; {text}", aliases=aliases)]
