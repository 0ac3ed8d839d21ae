"""The course of a loop in counts: losses that reached a step, sizes of windows, weights that moved, schedule, modes."""

from __future__ import annotations

from rislab.checkup.findings import Finding, fault, listed, note, warning
from rislab.checkup.gradient_rules import LOOSE, Declared, size_of, surplus, taken
from rislab.checkup.rules import Code
from rislab.checkup.trace import MicroBatch, Step, Trace, units

# A scaler begins at 2^16, and has gone down to 1 after so many skips.
SKIPS = 17
# Why some tensors stay where they are.
PARTLY = ("head frozen", "weights kept in bf16", "warm-up counted in samples")


def coverage_findings(seen: Trace, contract: Declared) -> list[Finding]:
    """Losses and backwards that did not reach a step, or should not have."""
    batches = [batch for step in seen.steps for batch in step.micro_batches] + seen.left
    found = []
    if any(step.inside for step in seen.steps):
        found.append(
            note(Code.LOSSES, "closure", "the loss runs inside the optimiser's step: gradients are not judged")
        )
    if not batches:
        return [*found, *_without_losses(seen)]
    return [*found, *_stuck(batches, seen, contract), *_marks(batches, seen, contract)]


def _without_losses(seen: Trace) -> list[Finding]:
    counts = f"{seen.forwards} forwards with gradients, {len(seen.steps)} steps"
    if seen.strays:
        text = f"{counts}; {seen.strays} losses were heard, and none of them depends on the weights"
        return [fault(Code.LOSSES, "loss detached", text)]
    if not seen.forwards and not seen.steps and len(seen.still) == seen.tensors:
        return [fault(Code.LOSSES, "nothing was trained", counts)]
    arrived = [step.gradient for step in seen.steps]
    if not seen.forwards and all(gradient is None or not bool(gradient.any()) for gradient in arrived):
        return [
            fault(
                Code.LOSSES, "steps without a forward", f"{counts}, all of them on gradients of 0", seen.steps[0].where
            )
        ]
    why = "no loss was heard: give watch() the loss, or call watch.loss in the loop"
    return [note(Code.LOSSES, "not judged", f"{counts}, and {why}")]


def _stuck(batches: list[MicroBatch], seen: Trace, contract: Declared) -> list[Finding]:
    """Why no step was taken, or why losses did not reach one."""
    used = sum(batch.backwards > 0 for batch in batches)
    counts = f"{len(batches)} losses, {used} with a backward, {len(seen.steps)} steps"
    where = batches[0].where
    reasons = dict.fromkeys(batch.why for batch in batches if batch.why and "carries no gradient" not in batch.why)
    found = [note(Code.GRADIENT_SCALE, "not judged", why) for why in reasons]
    if all("carries no gradient" in batch.why for batch in batches):
        return [*found, fault(Code.LOSSES, "loss detached", counts, where)]
    if any(step.inside for step in seen.steps):
        return found
    moved = len(seen.still) < seen.tensors
    if used == 0 and not moved:
        aliases = ("loss detached", "loop tail dedented")
        return [*found, fault(Code.LOSSES, "loop tail in a branch never taken", counts, where, aliases)]
    applied = [step for step in seen.steps if step.applied]
    if not applied and all(batch.broken for batch in batches if batch.backwards):
        text = f"{counts}, none of them on numbers: every loss or gradient holds NaN or infinity"
        aliases = ("singular vectors differentiated", "step gate too strict")
        return [*found, fault(Code.NAN, "infinity in every step", text, where, aliases)]
    if not applied and len(seen.steps) > SKIPS:
        text = f"{len(seen.steps)} steps, all of them skipped; the loss scale is {seen.steps[-1].scale:g}"
        return [*found, fault(Code.NAN, "infinity in every step", text, where, ("scaler bypassed",))]
    if not seen.steps:
        if moved:
            return [
                *found,
                note(Code.STEPS, "updated by hand", f"{counts}, and the weights moved: steps are not judged"),
            ]
        aliases = ("step gate too strict", "loop tail in a branch never taken")
        return [*found, fault(Code.STEPS, "step in a branch never taken", counts, where, aliases)]
    return [*found, *_lost(seen, contract, counts)]


def _lost(seen: Trace, contract: Declared, counts: str) -> list[Finding]:
    steps = [step for step in taken(seen) if any(batch.backwards == 0 for batch in step.micro_batches)]
    if not steps:
        return []
    long = [step for step in taken(seen) if len(units(step, contract.accumulation_steps)) > 1]
    if long and all(not b.backwards for step in long for b in units(step, contract.accumulation_steps)[:-1]):
        aliases = ("loop tail in a branch never taken",)
        return [fault(Code.LOSSES, "loop tail dedented", counts, long[0].where, aliases)]
    return [warning(Code.LOSSES, "forwards that reached no step", counts)]


def _marks(batches: list[MicroBatch], seen: Trace, contract: Declared) -> list[Finding]:
    """What single losses show: precision, NaN, mode."""
    found = []
    half = next((batch for batch in batches if batch.precision == "fp16"), None)
    if half is not None and not contract.scaler:
        text = "float16, and no scaler was given" if contract.scaler is None else "float16, and the scaler is disabled"
        kind = warning if contract.scaler is None else fault
        found.append(
            kind(Code.PRECISION, "scaler only where CUDA is", f"{text}: gradients below 6e-8 are 0", half.where)
        )
    if contract.scaler and all(batch.precision in ("fp32", "fp64") for batch in batches):
        text = f"the scaler is enabled, and all {len(batches)} losses are in {batches[0].precision}"
        found.append(warning(Code.PRECISION, "scaler without autocast", text, batches[0].where))
    lost = [batch for batch in batches if not bool(batch.loss.isfinite().all())]
    if lost:
        aliases = (
            "epsilon vanishes in half precision",
            "squares overflow in half precision",
            "NaN dropped from the record",
        )
        text = f"NaN or infinity in {len(lost)} of {len(batches)} losses, in {lost[0].precision}"
        found.append(warning(Code.NAN, "losses that are no numbers", text, lost[0].where, aliases))
    evaluated = [batch for batch in batches if not batch.mode]
    if evaluated:
        text = f"{len(evaluated)} of {len(batches)} training losses in evaluation mode"
        kind = fault if len(evaluated) < len(batches) or seen.moody else warning
        found.append(kind(Code.MODE, "eval never undone", text, evaluated[0].where))
    return found


def window_findings(seen: Trace, contract: Declared) -> list[Finding]:
    """Windows that are larger or smaller than they should be, steps without a loss, and losses without a step."""
    steps = taken(seen)
    if not steps or not seen.micro_batches:
        return []
    found = []
    size, source = size_of(seen, contract)
    empty = [step for step in steps if not step.micro_batches]
    if empty:
        text = f"{len(empty)} of {len(steps)} steps came without a new loss"
        found.append(fault(Code.WINDOW_SIZE, "stepped twice", text, empty[0].where))
    # Where NaN made a loop throw a window away, the places of the others say nothing.
    steps = [step for step in steps if step.micro_batches and step.applied]
    sizes = [len(units(step, contract.accumulation_steps)) for step in steps]
    if not sizes:
        return found
    short = [place for place, count in enumerate(sizes[:-1]) if count < size]
    long = [place for place, count in enumerate(sizes) if count > size]
    told = f"windows of {listed(sizes, 8)} micro-batches, K = {size} ({source})"
    declared = contract.accumulation_steps is not None
    if size > 1 and len(sizes) > 1 and sizes.count(1) > len(sizes) / 2:
        found.append(fault(Code.WINDOW_SIZE, "step per micro-batch", told, steps[0].where))
    elif short and short[0] == 0 and len(sizes) > 1 and sizes[0] == 1 and sizes[1] == size > 1:
        found.append(fault(Code.WINDOW_SIZE, "window off by one", told, steps[0].where))
    elif long and (declared or size > 1) and all(b.backwards for step in steps for b in step.micro_batches):
        found.append(_overlong(steps, size, told, contract))
    left = [batch for batch in seen.left if batch.backwards and not _thrown_away(batch, seen)]
    if left and len(left) < size and not found and not any(batch.broken for batch in left):
        text = f"{len(left)} micro-batches with a backward came after the last step, K = {size} ({source})"
        found.append(fault(Code.STEPS, "tail never stepped", text, left[-1].where, ("left-overs leak",)))
    return found


def _thrown_away(batch: MicroBatch, seen: Trace) -> bool:
    """Whether whatever its line gave was zeroed before a step, as the generator's loss is in a discriminator."""
    before = [(step, other) for step in seen.steps for other in step.micro_batches if other.site == batch.site]
    return bool(before) and not any(step.kept(other) for step, other in before)


def _overlong(steps: list[Step], size: int, told: str, contract: Declared) -> Finding:
    """Windows with more than K micro-batches: were the surplus ones lost, or do they leak?"""
    for step in steps:
        weights = surplus(step, size, contract)
        if weights is not None:
            lost = all(abs(weight) < LOOSE for weight in weights)
            name, other = (
                ("tail never stepped", "left-overs leak") if lost else ("left-overs leak", "tail never stepped")
            )
            return fault(Code.ZEROING if lost else Code.WINDOW_SIZE, name, told, step.where, (other,))
    if all(len(units(step, contract.accumulation_steps)) > size for step in steps):
        return fault(
            Code.WINDOW_SIZE, "window size", told, steps[0].where, ("step gate too strict", "window off by one")
        )
    return fault(
        Code.WINDOW_SIZE, "left-overs leak", told, steps[0].where, ("tail never stepped", "step gate too strict")
    )


def weight_findings(seen: Trace) -> list[Finding]:
    """Tensors that never moved, that no optimiser holds, or that are no longer the network's."""
    found = []
    if seen.stale and seen.strange:
        text = f"{len(seen.strange)} trainable tensors are not in the optimiser, which holds {seen.stale} others"
        return [fault(Code.WEIGHTS, "optimiser holds stale parameters", text)]
    if seen.strange:
        text = f"trainable, and held by no group: {listed(seen.strange)}"
        found.append(warning(Code.WEIGHTS, "not in the optimiser", text))
    if seen.frozen:
        found.append(note(Code.WEIGHTS, "frozen tensors", f"{seen.frozen} ask for no gradient", ("head frozen",)))
    if seen.coarse and not seen.fine and seen.micro_batches and any(step.applied for step in seen.steps):
        text = (
            f"all {seen.coarse} larger tensors hold nothing but numbers of bfloat16: what moves a weight by less than"
        )
        found.append(warning(Code.WEIGHTS, "weights kept in bf16", f"{text} 1/256 of itself is lost"))
    moving = [step for step in seen.steps if step.applied and max(step.rates, default=0.0) > 0]
    stuck = [name for name in seen.still if name not in seen.strange]
    if not moving or not stuck or not seen.micro_batches:
        return found
    if seen.faint and len(stuck) < seen.tensors:
        text = f"never moved, as their true gradient is 0, like that of a bias before BatchNorm: {listed(seen.faint)}"
        found.append(note(Code.WEIGHTS, "gradient of rounding alone", text))
        stuck = [name for name in stuck if name not in seen.faint]
    if not stuck:
        return found
    text = f"{len(stuck)} tensors never moved in {len(moving)} steps: {listed(stuck)}"
    rate = f"the largest learning rate was {max(max(step.rates) for step in moving):.2g}"
    if len(stuck) + len(seen.strange) < seen.tensors:
        return [*found, warning(Code.WEIGHTS, "detached backbone", f"{text}; {rate}", aliases=PARTLY)]
    if seen.losses and all(float(loss.abs().max()) == 0 for loss, *_ in seen.losses):
        return [*found, fault(Code.WEIGHTS, "main loss weight 0", f"all {len(seen.losses)} losses are 0; {text}")]
    arrived = [step.gradient for step in moving if step.gradient is not None]
    if arrived and all(float(gradient.norm()) == 0 for gradient in arrived):
        aliases = ("main loss weight 0", "zeroed before the step")
        return [*found, fault(Code.WEIGHTS, "loss detached", f"all gradients are 0; {text}", aliases=aliases)]
    return [
        *found,
        fault(Code.WEIGHTS, "weights kept in bf16", f"{rate}; {text}", aliases=("warm-up counted in samples",)),
    ]


def schedule_findings(seen: Trace, contract: Declared, epochs: int = 0) -> list[Finding]:
    """Learning rates of 0, and a scheduler out of step.

    Args:
        seen, contract: see checkup. epochs: that are known to have passed.
    """
    applied = [step for step in seen.steps if step.applied]
    return [*_rates(applied), *(_ticks(seen, applied, contract, epochs) if contract.scheduler and applied else [])]


def _rates(applied: list[Step]) -> list[Finding]:
    found = []
    zero = [place for place, step in enumerate(applied) if step.rates and max(step.rates) == 0]
    if zero and len(zero) == len(applied) - zero[0] and zero[0] > 0:
        found.append(
            note(Code.LEARNING_RATE, "schedule ends in a rate of 0", f"the last {len(zero)} of {len(applied)} steps")
        )
    elif zero:
        text = f"learning rate 0 at {len(zero)} of {len(applied)} steps, the first at step {zero[0] + 1}"
        name, aliases = "learning rate 0 at the first step", ("warm-up counted in samples",)
        found.append(fault(Code.LEARNING_RATE, name, text, applied[zero[0]].where, aliases))
    largest = [max(step.rates, default=0.0) for step in applied]
    lowest = [rate <= 1.001 * min(largest) for rate in largest]
    falls = largest and min(largest) <= 0.05 * max(largest) and lowest[-1]
    faint = [rate < 1e-3 * max(largest) for rate in largest]
    if falls and not zero and sum(faint) > len(faint) / 2:
        text = f"{sum(faint)} of {len(faint)} steps at less than 1/1000 of the largest rate, {max(largest):.2g}"
        found.append(warning(Code.LEARNING_RATE, "schedule ends early", text))
    elif falls and not zero and sum(lowest) > len(lowest) / 2:
        text = f"{sum(lowest)} of {len(lowest)} steps at the lowest rate, {min(largest):.2g} of {max(largest):.2g}"
        found.append(warning(Code.LEARNING_RATE, "schedule ends early", text))
    return found


def _ticks(seen: Trace, applied: list[Step], contract: Declared, epochs: int) -> list[Finding]:
    ticks = [step.ticks or 0 for step in seen.steps]
    batches = sum(len(step.micro_batches) for step in seen.steps[:-1])
    passed, where = ticks[-1] - ticks[0], applied[0].where
    counts = f"{ticks[-1]} ticks before step {len(ticks)}, {batches} micro-batches, {len(applied)} steps taken"
    if len(applied) > 1 and seen.ticks == ticks[0]:
        kind = fault if contract.cadence == "step" or epochs > 1 else warning
        return [kind(Code.SCHEDULER, "scheduler never stepped", f"{ticks[0]} ticks in {len(applied)} steps", where)]
    if ticks[0] >= 1 and seen.steps[0].applied:
        size = len(seen.steps[0].micro_batches)
        name = "scheduler per micro-batch" if ticks[0] >= size > 1 else "scheduler before the optimiser"
        return [fault(Code.SCHEDULER, name, f"{ticks[0]} ticks before the first step; {counts}", where)]
    if batches > len(ticks) - 1 > 0 and passed >= batches:
        return [fault(Code.SCHEDULER, "scheduler per micro-batch", counts, where)]
    before = [sum(step.applied for step in seen.steps[:place]) for place in range(len(ticks))]
    ahead = [place for place, (tick, due) in enumerate(zip(ticks, before, strict=True)) if tick > due]
    if ahead and any(not step.applied for step in seen.steps[: ahead[0] + 1]):
        return [fault(Code.SCHEDULER, "schedule runs over skipped steps", counts, where)]
    if ahead:
        return [fault(Code.SCHEDULER, "scheduler per micro-batch", counts, where)]
    if contract.cadence == "step" and passed < before[-1]:
        text = f"{counts}, and it was declared to tick at each step"
        return [fault(Code.SCHEDULER, "schedule stepped per epoch", text, where)]
    if 0 < passed < before[-1]:
        text = f"{counts}: fewer ticks than steps, as of a schedule that counts epochs"
        return [note(Code.SCHEDULER, "schedule stepped per epoch", text)]
    return []
