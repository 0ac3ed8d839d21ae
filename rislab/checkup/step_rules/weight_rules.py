"""Rules about the weights: those that never move, that no optimiser holds, or that are no longer the network's."""

from __future__ import annotations

import math
import re

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning, listed
from rislab.checkup.recording.trace import Step, Trace
from rislab.checkup.recording.windows import WatchedRun
from rislab.checkup.rules import Code
from rislab.checkup.step_rules.use_rules import is_running_sum

# So many steps tell that two factors that begin at 0 stay there, as a chain of them does not.
DEAD = 8
# Other names for tensors that stay where they are.
PARTLY_FROZEN = ("head frozen", "warm-up counted in samples")


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
        return [_without_gradient(stuck, text, trace)]
    aliases = ("warm-up counted in samples",)
    return [as_fault(Code.WEIGHTS, "weights kept in bf16", f"{rate}; {text}", aliases=aliases)]


def _without_gradient(stuck: list[str], text: str, trace: Trace) -> Finding:
    """Why all gradients are 0: no backward reaches the weights, or what it brings them is 0."""
    if not all(batch.kind and batch.weight for batch in trace.micro_batches):
        aliases = ("main loss weight 0", "zeroed before the step")
        return as_fault(Code.WEIGHTS, "loss detached", f"all gradients are 0; {text}", aliases=aliases)
    if len(stuck) > 1 and {*stuck} <= {*trace.zeros}:
        text = f"all began at 0 throughout, which leaves each of two factors without a gradient; {text}"
        return as_fault(Code.WEIGHTS, "units that stay equal", text, aliases=("gradients of 0",))
    return as_fault(Code.WEIGHTS, "gradients of 0", f"the loss depends on the weights, and all gradients are 0; {text}")
