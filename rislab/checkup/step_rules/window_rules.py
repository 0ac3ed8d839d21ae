"""Rules about windows: how many micro-batches each has, which of them reach its step, and what is left over."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning, listed
from rislab.checkup.recording.trace import MicroBatch, Trace
from rislab.checkup.recording.windows import LOOSE, StepComparison, StepWindow, WatchedRun, extra_micro_batches, near
from rislab.checkup.rules import Code
from rislab.checkup.step_rules.gradient_rules import made_by_library

# So many windows of one size are no ends of short epochs by accident.
SHORT_WINDOWS = 3


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
