"""Can the network learn one micro-batch by heart, with all tensors that its answers depend on?"""

from __future__ import annotations

import math

from torch import Tensor

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning, listed
from rislab.checkup.probes.loss_probe import descend, observe_loss
from rislab.checkup.probes.probe_batches import map_leaves, tensors_in
from rislab.checkup.probes.probe_target import ProbeTarget
from rislab.checkup.recording.loss_graph import tensors_behind
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.rules import Code

NOT_LEARNED = "one batch is not learned"


def one_batch_by_heart(target: ProbeTarget) -> list[Finding]:
    """P5: can the network learn its first micro-batch by heart?"""
    code = Code.ONE_BATCH
    if not any(value.requires_grad for value in target.model.parameters()):
        return [as_fault(code, "head frozen", "no parameter asks for a gradient", "", ("detached backbone",))]
    if not target.compute_loss(target.copy(), target.data[0]).requires_grad:
        return [as_fault(code, "loss detached", "the loss of the first micro-batch carries no gradient")]
    findings = _unregistered(target)
    model, first, last, rate = target.learned
    silent = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if silent:
        text = f"{len(silent)} tensors got no gradient: {listed(silent)}"
        findings.append(as_warning(code, "detached backbone", text, "", ("head frozen", "loss detached")))
    least = min(_least_loss(target), last)
    text = f"loss {first:.4g} → {last:.4g} in {target.steps} steps of Adam at {rate:g} (least: {least:.4g})"
    if first == last != 0 and not any(value.grad is not None and value.grad.any() for value in model.parameters()):
        evidence = f"{text}: the gradient is 0 in all tensors"
        return [*findings, as_fault(code, NOT_LEARNED, evidence, "", ("loss detached", "detached backbone"))]
    if not math.isfinite(first) or first - least <= 1e-3 * abs(first):
        return [*findings, as_note(code, "not judged", f"{text}: nothing is left to be learned")]
    share = (last - least) / (first - least)
    if least < 0:
        # Of free answers; a network whose answers are logarithms of probabilities, or bounded, cannot give them all.
        share = 0.0 if first - last > 0.05 * abs(first) else 1.0
    if not share < 0.95:
        return [*findings, as_fault(code, NOT_LEARNED, text, "", ("loss detached", "detached backbone"))]
    if share > 0.3:
        findings.append(as_warning(code, "one batch is hardly learned", text))
    return findings


def _unregistered(target: ProbeTarget) -> list[Finding]:
    """A warning of trainable tensors that answers depend on, and that neither network nor optimiser holds."""
    model, (inputs, truth) = target.copy(), target.data[0]
    # An input may carry a graph, as that of an attack does.
    inputs = map_leaves(inputs, lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf)
    own = set(map(id, model.parameters()))
    nodes = [value.grad_fn for value in tensors_in(target.apply(model, (inputs, truth))).values()]
    behind = [value for node in nodes if node is not None for value in tensors_behind(node)]
    loose = {id(value): value for value in behind if value is not None and id(value) not in own}
    registered = set(map(id, target.model.parameters()))
    held = [] if target.optimizer is None else tensors_held(target.optimizer)
    if not loose or any(id(value) not in registered for value in held):
        return []
    text = f"the answers depend on {len(loose)} trainable tensors that are no parameters of the network, as those of "
    text += "layers in a Python list: no optimiser of its parameters moves them"
    return [as_warning(Code.ONE_BATCH, "tensors that no optimiser holds", text)]


def _least_loss(target: ProbeTarget) -> float:
    """What the loss of the first micro-batch could fall to: by torch's table, else by moving the answer itself."""
    batch = target.data[0]
    observed = observe_loss(target, batch)
    lowest = descend(target, observed.output, batch[1])[0] if isinstance(observed.output, Tensor) else math.inf
    if math.isfinite(lowest):
        return lowest
    minimum = None if observed.call is None else observed.call.minimum()
    if minimum is not None and math.isfinite(minimum.value):
        return minimum.value
    return min(0.0, observed.value)
