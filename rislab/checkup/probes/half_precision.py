"""What half precision makes of a loss, and of the weights of a network whose weights are kept in it."""

from __future__ import annotations

import math

import torch
from torch import nn

from rislab.checkup.findings import Finding, as_fault, as_note
from rislab.checkup.probes.probe_batches import tensors_in
from rislab.checkup.probes.probe_target import ProbeTarget
from rislab.checkup.recording.trace import precision_of
from rislab.checkup.rules import Code
from rislab.errors import one_line

LARGEST_HALF = 65504.0


def half_precision(target: ProbeTarget) -> list[Finding]:
    """P8: what half precision makes of the loss, and weights in half precision of a step."""
    code, name = Code.HALF_PRECISION, "squares overflow in half precision"
    model, batch = target.copy(), target.data[0]
    types = {value.dtype for value in model.parameters()}
    half = precision_of(tuple(types)) if types & {torch.float16, torch.bfloat16} else ""
    findings = []
    full = target.raw_loss(batch, model)
    if half and not math.isfinite(full):
        aliases: tuple[str, ...] = ("epsilon vanishes in half precision", "complex numbers in half precision")
        findings.append(as_fault(code, name, f"the weights are {half}, and the loss is {full}", "", aliases))
    if not half:
        findings += _under_autocast(target, full)
    truths = [part for part in tensors_in(batch[1]).values() if part.is_floating_point() or part.is_complex()]
    squares = float(sum(part.detach().abs().double().square().sum() for part in truths))
    if squares > LARGEST_HALF:
        text = f"the squares of a target batch sum up to {squares:.3g}; float16 ends at {LARGEST_HALF:g}"
        findings.append(as_note(code, name, text))
    return [*findings, *(_lost_updates(target, model, half) if half else [])]


def _under_autocast(target: ProbeTarget, full: float) -> list[Finding]:
    batch = target.data[0]
    device = next((value.device.type for value in tensors_in(batch[0]).values()), "cpu")
    try:
        with torch.autocast(device, dtype=torch.float16):
            low = target.raw_loss(batch)
    except RuntimeError as error:
        # Not every processor has every layer in float16: not an LSTM, for one.
        text = f"under autocast to float16 the network does not run on this machine: {one_line(str(error))}"
        return [as_note(Code.HALF_PRECISION, "not judged", text)]
    if math.isfinite(low) or not math.isfinite(full):
        return []
    text = f"loss {full:.4g} as it is, and {low} under autocast to float16"
    aliases = ("epsilon vanishes in half precision",)
    return [as_note(Code.HALF_PRECISION, "squares overflow in half precision", text, aliases)]


def _lost_updates(target: ProbeTarget, model: nn.Module, half: str) -> list[Finding]:
    before = [value.detach().clone() for value in model.parameters()]
    target.take_steps(model, target.optimizer_for(model), range(1))
    pairs = [
        (old, new)
        for old, new in zip(before, model.parameters(), strict=True)
        if new.grad is not None and new.grad.any()
    ]
    total = sum(old.numel() for old, _ in pairs)
    unchanged = sum(int(((old == new) & (new.grad != 0)).sum()) for old, new in pairs)
    if not total or unchanged <= total / 2:
        return []
    text = f"{unchanged} of {total} weights, kept in {half}, did not move in a step"
    aliases = ("warm-up counted in samples", "head frozen")
    evidence = f"{text}: it is less than half their last digit"
    return [as_fault(Code.HALF_PRECISION, "weights kept in bf16", evidence, "", aliases)]
