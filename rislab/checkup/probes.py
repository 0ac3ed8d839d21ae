"""The probes: what no look at a running loop can show, tried out on copies.

    rislab.probe(model, loss, data, train=train, optimizer=optimizer, held_out=fresh)

`data` are micro-batches, pairs of inputs and target. Nothing that is given is changed: no weight, no optimiser, no
random state.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rislab.checkup.findings import Finding, Findings, as_fault, as_note, as_warning, listed
from rislab.checkup.gradients import GRADIENT_TOLERANCES, compare_gradients
from rislab.checkup.probe_target import (
    ProbeTarget,
    Train,
    apply_model,
    check_pairs,
    concatenate,
    exchange,
    first_tensor,
    sample_count,
    sample_hashes,
    save_and_load,
    seeded,
    select_samples,
    state_bytes,
    tensors_in,
)
from rislab.checkup.rules import Code
from rislab.checkup.trace import precision_of
from rislab.errors import InputError, check_choice, check_number

# A floor under this share of an untrained network's loss is one of rounding.
FLOOR = 1e-4
# Two outputs of one sample that differ by more are not the same but for rounding, by precision.
SAME = {"fp64": 1e-9, "fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
LARGEST_HALF = 65504.0


def probe(
    model: nn.Module,
    loss: Callable[..., Any],
    data: Sequence[Any],
    *,
    train: Train | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    held_out: Sequence[Any] = (),
    accumulation_steps: int | None = None,
    perfect: Callable[[Any], Any] | None = None,
    only: Iterable[str] = (),
    steps: int = 200,
    seed: int = 0,
) -> Findings:
    """Try ten things out on copies of a network.

    Args:
        model: called as model(inputs), model(*inputs) or model(**inputs).
        loss: called as loss(output, target).
        data: micro-batches, each a pair (inputs, target) of tensors, tuples or mappings of them; samples come first.
        train: the loop itself, called as train(model, optimizer, data), that returns one loss an epoch; P1 needs it.
        optimizer: of the model; copies get a fresh one of its class and options, or Adam.
        held_out: micro-batches of the validation.
        accumulation_steps: micro-batches in the window of P10, ≥ 1; all if None.
        perfect: makes of a target what a perfect network would put out; the target itself, or sure logits of a class.
        only: codes of the probes to run, all if empty.
        steps: of the network that learns one batch by heart, ≥ 1.
        seed: of the random numbers in the copies' training, ≥ 0.

    Returns:
        Findings; what could not be tried is a note.

    Raises:
        InputError: for a value that is not allowed.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; allowed: a Module")
    for name, call in (("loss", loss), ("train", train), ("perfect", perfect)):
        if not callable(call) and not (call is None and name != "loss"):
            raise InputError(f"{name} is a {type(call).__name__}; allowed: a function")
    batches, fresh = list(data), list(held_out)
    check_pairs("data", batches)
    check_pairs("held_out", fresh)
    if not batches:
        raise InputError("data is empty; allowed: at least one micro-batch")
    if accumulation_steps is not None:
        check_number("accumulation_steps", accumulation_steps, 1, 1_000_000, integer=True)
    check_number("steps", steps, 1, 1_000_000, integer=True)
    check_number("seed", seed, 0, 2**63 - 1, integer=True)
    codes = tuple(only) or tuple(PROBES)
    for code in codes:
        check_choice("only", code, PROBES)
    size = min(accumulation_steps or len(batches), len(batches))
    target = ProbeTarget(model, loss, batches, train, optimizer, fresh, size, perfect, steps, seed)
    states = random.getstate(), np.random.get_state()
    try:
        return Findings(finding for code in codes for finding in _run(Code(code), target))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _run(code: Code, target: ProbeTarget) -> list[Finding]:
    """The findings of one probe; whatever a stranger's code raises says that it could not be tried."""
    try:
        with seeded(target.seed), torch.enable_grad():
            return PROBES[code.value](target)
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else ""
        return [as_note(code, "not judged", f"{type(error).__name__}: {text}")]


def nan_survives(target: ProbeTarget) -> list[Finding]:
    """P1: infinity in one micro-batch; does the loop report it, and do the weights survive?"""
    if target.train is None:
        return [
            as_note(Code.NAN_SURVIVES, "not judged", "no train was given: what a loop makes of infinity is not known")
        ]
    place = len(target.data) // 2
    inputs, answer = copy.deepcopy(target.data[place])
    first = next((part for part in tensors_in(inputs).values() if part.is_floating_point() or part.is_complex()), None)
    if first is None:
        return [as_note(Code.NAN_SURVIVES, "not judged", "no input is real or complex")]
    batches = [*target.data]
    batches[place] = (exchange(inputs, first, torch.full_like(first, math.inf)), answer)
    model = target.copy()
    raw = target.raw_loss(batches[place])
    if math.isfinite(raw):
        text = f"with infinity in its inputs the network still has a loss of {raw:.4g}"
        return [as_note(Code.NAN_SURVIVES, "not judged", text)]
    try:
        reported = [float(value) for value in target.train(model, target.optimizer_for(model), batches)]
    except Exception as error:
        text = f"infinity in micro-batch {place + 1}: {type(error).__name__}"
        return [as_note(Code.NAN_SURVIVES, "stops at infinity", text)]
    shown = ", ".join(f"{value:.4g}" for value in reported[:3])
    text = f"infinity in micro-batch {place + 1} of {len(batches)}: reported {shown}"
    if reported and all(map(math.isfinite, reported)):
        aliases = (
            "NaN guard in the loop",
            "NaN written as 0",
            "NaN made 0 in the gradient",
            "only the last micro-batch",
        )
        evidence = f"{text}, as if nothing were wrong"
        return [as_fault(Code.NAN_SURVIVES, "NaN replaced by the running mean", evidence, "", aliases)]
    if not all(bool(torch.isfinite(value).all()) for value in model.parameters()):
        evidence = f"{text}; the weights are NaN, and no later batch can mend them"
        return [as_note(Code.NAN_SURVIVES, "NaN reached a step", evidence)]
    return []


def oracle_floor(target: ProbeTarget) -> list[Finding]:
    """P2: the loss of a perfect answer, which should be the smallest that there is."""
    code, batch = Code.LOSS_MINIMUM, target.data[0]
    perfect = target.perfect_output(batch)
    if not isinstance(perfect, Tensor):
        return [as_note(code, "not judged", "what a perfect network would put out is not known: give `perfect`")]
    with torch.no_grad():
        output = apply_model(target.copy(), batch[0])
    least, slope = target.loss_and_slope(perfect, batch[1])
    usual, usual_slope = target.loss_and_slope(output, batch[1])
    text = f"loss(target, target) = {least:.4g}, and {usual:.4g} for the network as it is"
    if not math.isfinite(least) or not math.isfinite(slope):
        return [as_warning(code, "NaN at the perfect answer", f"{text}; the gradient there has norm {slope:.4g}")]
    if least <= FLOOR * abs(usual):
        return []
    guessed = target.perfect is None and perfect.shape != batch[1].shape
    if slope > 1e-2 * usual_slope and guessed:
        evidence = f"{text}, at sure logits of the right class; `perfect` may say better"
        return [as_note(code, "not judged", evidence)]
    if slope > 1e-2 * usual_slope:
        aliases = ("loaded on one side", "normalised by the prediction", "blend inverted", "diagonal energy")
        return [
            as_fault(
                code,
                "the loss is not smallest at the truth",
                f"{text}; it still falls beyond the perfect answer",
                "",
                aliases,
            )
        ]
    return [
        as_note(
            code,
            "the loss is not smallest at the truth",
            f"{text}; the perfect answer is the lowest point, and this the lowest value",
        )
    ]


def independence(target: ProbeTarget) -> list[Finding]:
    """P3: does the answer for one sample depend on the others of its batch?"""
    code, batch = Code.INDEPENDENCE, target.data[0]
    samples = sample_count(batch)
    if samples < 2:
        return [as_note(code, "not judged", "the first micro-batch has one sample")]
    alone = select_samples(batch, torch.zeros(samples, dtype=torch.long))
    findings = []
    for training in (False, True):
        first, second = (target.output(inputs, training=training)[0] for inputs, _ in (batch, alone))
        error = _relative_difference(first, second)
        text = f"the first answer changes by {error:.2g} of itself with the other samples of the batch"
        if error <= SAME[target.precision(first)]:
            continue
        if not training:
            aliases = ("batch statistics per micro-batch", "eval never undone")
            return [as_fault(code, "normalised over the batch", f"{text}, in evaluation mode", "", aliases)]
        findings.append(as_note(code, "in-batch coupling", f"{text}, in training mode: as BatchNorm does"))
    return findings


def use_of_inputs(target: ProbeTarget) -> list[Finding]:
    """P4: does the answer depend on every input, once something was learned?"""
    code, batch = Code.INPUTS, target.data[0]
    model = target.learn_by_heart(steps=min(target.steps, 20)).model.eval()
    findings = []
    with torch.no_grad():
        answer = first_tensor(apply_model(model, batch[0]))
        for name, tensor in tensors_in(batch[0]).items():
            other = _of_other_samples(tensor)
            if torch.equal(other, tensor):
                findings.append(as_note(code, "not judged", f"{name} is the same in all samples"))
            elif torch.equal(first_tensor(apply_model(model, exchange(batch[0], tensor, other))), answer):
                text = f"{name}, {[*tensor.shape]}, was exchanged, and no answer changed"
                findings.append(as_fault(code, "network never sees an input", text, "", ("network never sees H",)))
    samples = sample_count(batch)
    if samples > 1 and len(answer) == samples and bool((answer == answer[:1]).all()):
        return [as_fault(code, "constant answer", f"{samples} different samples get one answer")]
    return findings


def one_batch_by_heart(target: ProbeTarget) -> list[Finding]:
    """P5: can the network learn its first micro-batch by heart?"""
    code = Code.ONE_BATCH
    if not any(value.requires_grad for value in target.model.parameters()):
        return [as_fault(code, "head frozen", "no parameter asks for a gradient", "", ("detached backbone",))]
    model, first, last, rate = target.learn_by_heart(stop=0.01)
    findings = []
    silent = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if silent:
        text = f"{len(silent)} tensors got no gradient: {listed(silent)}"
        findings.append(as_warning(code, "detached backbone", text, "", ("head frozen", "loss detached")))
    perfect = target.perfect_output(target.data[0])
    least = target.loss_and_slope(perfect, target.data[0][1])[0] if isinstance(perfect, Tensor) else 0.0
    least = least if math.isfinite(least) and least < last else min(0.0, last)
    share = (last - least) / (first - least) if first > least else math.nan
    text = f"loss {first:.4g} → {last:.4g} in {target.steps} steps of Adam at {rate:g} (perfect: {least:.4g})"
    if not share < 0.95:
        aliases = ("loss detached", "detached backbone", "the loss is not smallest at the truth")
        return [*findings, as_fault(code, "one batch is not learned", text, "", aliases)]
    if share > 0.3:
        findings.append(as_warning(code, "one batch is hardly learned", text))
    return findings


def train_and_eval_mode(target: ProbeTarget) -> list[Finding]:
    """P6: the loss of what was learned by heart, in training mode and in evaluation mode."""
    model, first, *_ = target.learn_by_heart(stop=0.01)
    trained, evaluated = (target.raw_loss(target.data[0], model.train(training)) for training in (True, False))
    if not (evaluated > 0.5 * first and evaluated > 5 * abs(trained)):
        return []
    text = f"one batch: loss {trained:.4g} in training mode, {evaluated:.4g} in evaluation mode, {first:.4g} untrained"
    aliases = ("averaged weights not restored", "validation of the averaged weights only", "eval never undone")
    return [as_warning(Code.EVALUATION, "evaluation is another network", text, "", aliases)]


def resumed_run(target: ProbeTarget) -> list[Finding]:
    """P7: two steps, saved, loaded and two steps more, against four steps on end."""
    full, again = (_four_steps(target) for _ in range(2))
    if not torch.equal(state_bytes(full), state_bytes(again)):
        text = "two equal runs differ: something draws numbers that no seed of torch governs"
        return [as_note(Code.RESUME, "not judged", text)]
    with seeded(target.seed):
        model, optimizer = target.pair()
        target.take_steps(model, optimizer, range(2))
        state = save_and_load({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        other, fresh = target.pair()
        other.load_state_dict(state["model"])
        fresh.load_state_dict(state["optimizer"])
        target.take_steps(other, fresh, range(2, 4))
    if torch.equal(state_bytes(full), state_bytes(other)):
        return []
    differs = [
        name
        for (name, one), two in zip(full.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(one, two)
    ]
    text = f"after saving and loading, {len(differs) or 'no'} tensors go another way: {listed(differs)}"
    aliases = ("optimiser not restored", "random state not restored", "averaged weights not restored")
    return [as_fault(Code.RESUME, "state outside of state_dict", text, "", aliases)]


def _four_steps(target: ProbeTarget) -> nn.Module:
    model, optimizer = target.pair()
    with seeded(target.seed):
        target.take_steps(model, optimizer, range(4))
    return model


def half_precision(target: ProbeTarget) -> list[Finding]:
    """P8: what half precision makes of the loss, and weights in half precision of a step."""
    code, name = Code.HALF_PRECISION, "squares overflow in half precision"
    model, batch = target.copy(), target.data[0]
    types = {value.dtype for value in model.parameters()}
    half = precision_of(types) if types & {torch.float16, torch.bfloat16} else ""
    findings = []
    full = target.raw_loss(batch, model)
    if half and not math.isfinite(full):
        aliases: tuple[str, ...] = ("epsilon vanishes in half precision", "complex numbers in half precision")
        findings.append(as_fault(code, name, f"the weights are {half}, and the loss is {full}", "", aliases))
    if not half:
        device = next((value.device.type for value in tensors_in(batch[0]).values()), "cpu")
        with torch.autocast(device, dtype=torch.float16):
            low = target.raw_loss(batch)
        if math.isfinite(full) and not math.isfinite(low):
            text = f"loss {full:.4g} as it is, and {low} under autocast to float16"
            findings.append(as_note(code, name, text, ("epsilon vanishes in half precision",)))
    squares = float(sum(part.detach().abs().double().square().sum() for part in tensors_in(batch[1]).values()))
    if squares > LARGEST_HALF:
        text = f"the squares of a target batch sum up to {squares:.3g}; float16 ends at {LARGEST_HALF:g}"
        findings.append(as_note(code, name, text))
    return [*findings, *(_lost_updates(target, model, half) if half else [])]


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


def duplicates(target: ProbeTarget) -> list[Finding]:
    """P9: samples that occur twice, or in training and validation; a forward that sets the random state."""
    code = Code.DUPLICATES
    known, fresh = sample_hashes(target.data), sample_hashes(target.held_out)
    findings = []
    twice, shared = len(known) - len(set(known)), len(set(known) & set(fresh))
    if twice:
        findings.append(as_warning(code, "duplicate samples", f"{twice} of {len(known)} samples occur before"))
    if shared:
        text = f"{shared} of {len(fresh)} held-out samples are in the training data"
        findings.append(as_fault(code, "split leakage", text))
    states = []
    for seed in (1, 2):
        with seeded(seed):
            apply_model(target.copy(), target.data[0][0])
            states.append(torch.get_rng_state())
    if torch.equal(*states):
        text = "after a forward, torch's random state is the same whatever it was before"
        findings.append(as_fault(code, "random state set in the forward", text, "", ("random state not restored",)))
    return findings


def window_as_one_batch(target: ProbeTarget) -> list[Finding]:
    """P10: a window of micro-batches against one batch of all its samples."""
    code, batches = Code.EQUIVALENCE, target.data[: target.accumulation_steps]
    if len(batches) < 2:
        return [as_note(code, "not judged", "a window of one micro-batch is one batch")]
    sizes = [sample_count(batch) for batch in batches]
    model = target.copy()
    one_batch = target.gradient(target.copy(), [concatenate(batches)], [1.0])
    errors = []
    for shares in ([size / sum(sizes) for size in sizes], [1.0] * len(sizes)):
        with seeded(target.seed):
            errors.append(compare_gradients(target.gradient(model, batches, shares), one_batch).relative_error)
        model = target.copy()
    error = min(errors)
    if not error > GRADIENT_TOLERANCES[target.precision(one_batch)][0]:
        return []
    text = f"{len(batches)} micro-batches against one batch: gradients differ by {error:.2g} of themselves"
    return [as_note(code, "in-batch coupling", f"{text}; BatchNorm, dropout and contrasts do that, and no loop")]


PROBES: Mapping[str, Callable[[ProbeTarget], list[Finding]]] = {
    Code.NAN_SURVIVES.value: nan_survives,
    Code.LOSS_MINIMUM.value: oracle_floor,
    Code.INDEPENDENCE.value: independence,
    Code.INPUTS.value: use_of_inputs,
    Code.ONE_BATCH.value: one_batch_by_heart,
    Code.EVALUATION.value: train_and_eval_mode,
    Code.RESUME.value: resumed_run,
    Code.HALF_PRECISION.value: half_precision,
    Code.DUPLICATES.value: duplicates,
    Code.EQUIVALENCE.value: window_as_one_batch,
}


def _relative_difference(first: Tensor, second: Tensor) -> float:
    length = float(first.abs().double().norm())
    return float((first - second).abs().double().norm()) / length if length else 0.0


def _of_other_samples(tensor: Tensor) -> Tensor:
    """The samples of a tensor moved on by one; with other values, where all samples are the same."""
    moved = tensor.roll(1, 0) if tensor.dim() else tensor
    if torch.equal(moved, tensor) and (tensor.is_floating_point() or tensor.is_complex()):
        return tensor + torch.randn_like(tensor) * (1 + tensor.abs())
    return moved
