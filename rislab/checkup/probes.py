"""The probes: what no look at a running loop can show, tried out on copies.

    rislab.probe(model, loss, data, train=train, optimizer=optimizer, held_out=fresh)

`data` are micro-batches, pairs of inputs and target. Nothing that is given is changed: no weight, no optimiser, no
random state.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rislab.checkup.findings import Finding, Findings, fault, listed, note, warning
from rislab.checkup.gradients import GRADIENT_TOLERANCES, compare
from rislab.checkup.probe_target import (
    ProbeTarget,
    Train,
    broken,
    changed,
    count,
    forward,
    joined,
    parts,
    reloaded,
    seeded,
    select,
    weights,
)
from rislab.checkup.rules import Code
from rislab.checkup.trace import precision_of
from rislab.errors import InputError, check_choice, check_number

# A floor under this share of an untrained network's loss is one of rounding.
FLOOR = 1e-4
# Two outputs of one sample that differ by more are not the same but for rounding, by precision.
SAME = {"fp64": 1e-9, "fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
RATES = (1e-2, 1e-3, 1e-1, 1e-4)
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
        model: called as model(inputs), model(*inputs) or model(**inputs). loss: called as loss(output, target).
        data: micro-batches, each a pair (inputs, target) of tensors, tuples or mappings of them; samples come first.
        train: the loop itself, called as train(model, optimizer, data), that returns one loss an epoch; P1 needs it.
        optimizer: of the model; copies get a fresh one of its class and options, or Adam.
        held_out: micro-batches of the validation. accumulation_steps: for P10; all micro-batches if None.
        perfect: makes of a target what a perfect network would put out; the target itself, or sure logits of a class.
        only: codes of the probes to run, all if empty. steps: of the network that learns one batch by heart, ≥ 1.
        seed: of the random numbers in the copies' training.

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
    for name, pairs in (("data", batches), ("held_out", fresh)):
        for place, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not parts(pair[0]):
                raise InputError(f"{name}[{place}] is a {type(pair).__name__}; allowed: a pair of inputs and target")
    if not batches:
        raise InputError("data is empty; allowed: at least one micro-batch")
    if accumulation_steps is not None:
        check_number("accumulation_steps", accumulation_steps, 1, 1_000_000, integer=True)
    check_number("steps", steps, 1, 1_000_000, integer=True)
    check_number("seed", seed, 0, 2**63 - 1, integer=True)
    chosen = tuple(only) or tuple(PROBES)
    for code in chosen:
        check_choice("only", code, PROBES)
    size = min(accumulation_steps or len(batches), len(batches))
    subject = ProbeTarget(model, loss, batches, train, optimizer, fresh, size, perfect, steps, seed)
    python, numpy = random.getstate(), np.random.get_state()
    try:
        return Findings(finding for code in chosen for finding in _tried(code, subject))
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _tried(code: str, subject: ProbeTarget) -> list[Finding]:
    """The findings of one probe; whatever a stranger's code raises says that it could not be tried."""
    try:
        with seeded(subject.seed), torch.enable_grad():
            return PROBES[code](subject)
    except Exception as error:
        return [
            note(
                Code(code), "not judged", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
        ]


def poisoned(subject: ProbeTarget) -> list[Finding]:
    """P1: infinity in one micro-batch; does the loop say so, and do the weights survive?"""
    if subject.train is None:
        return [note(Code.NAN_SURVIVES, "not judged", "no train was given: what a loop makes of infinity is not known")]
    place = len(subject.data) // 2
    inputs, target = copy.deepcopy(subject.data[place])
    first = next((part for part in parts(inputs).values() if part.is_floating_point() or part.is_complex()), None)
    if first is None:
        return [note(Code.NAN_SURVIVES, "not judged", "no input is real or complex")]
    batches = [*subject.data]
    batches[place] = (changed(inputs, first, torch.full_like(first, math.inf)), target)
    model = subject.copy().train()
    with torch.no_grad():
        raw = float(subject.loss_of(subject.copy().train(), batches[place]).detach())
    if math.isfinite(raw):
        return [
            note(
                Code.NAN_SURVIVES,
                "not judged",
                f"with infinity in its inputs the network still has a loss of {raw:.4g}",
            )
        ]
    try:
        told = [float(value) for value in subject.train(model, subject.optimizer_for(model), batches)]
    except Exception as error:
        return [
            note(Code.NAN_SURVIVES, "stops at infinity", f"infinity in micro-batch {place + 1}: {type(error).__name__}")
        ]
    finite = bool(told) and all(map(math.isfinite, told))
    text = f"infinity in micro-batch {place + 1} of {len(batches)}: reported {', '.join(f'{v:.4g}' for v in told[:3])}"
    if finite:
        others = (
            "NaN guard in the loop",
            "NaN written as 0",
            "NaN made 0 in the gradient",
            "only the last micro-batch",
        )
        return [
            fault(
                Code.NAN_SURVIVES, "NaN replaced by the running mean", f"{text}, as if nothing were wrong", "", others
            )
        ]
    if broken(model):
        return [
            warning(
                Code.NAN_SURVIVES,
                "NaN reached a step",
                f"{text}; the weights are NaN, and no later batch can mend them",
            )
        ]
    return []


def floor(subject: ProbeTarget) -> list[Finding]:
    """P2: the loss of a perfect answer, which should be the smallest that there is."""
    batch = subject.data[0]
    ideal = subject.ideal(batch)
    if not isinstance(ideal, Tensor):
        return [
            note(Code.ORACLE_FLOOR, "not judged", "nobody knows what a perfect network would put out: give `perfect`")
        ]
    with torch.no_grad():
        output = forward(subject.copy().train(), batch[0])
    least, uphill = _slope(subject, ideal, batch[1])
    usual, usual_slope = _slope(subject, output, batch[1])
    text = f"loss(target, target) = {least:.4g}, and {usual:.4g} for the network as it is"
    if not math.isfinite(least) or not math.isfinite(uphill):
        return [
            warning(Code.ORACLE_FLOOR, "NaN at the perfect answer", f"{text}; the gradient there has norm {uphill:.4g}")
        ]
    if least <= FLOOR * abs(usual):
        return []
    guessed = subject.perfect is None and ideal.shape != batch[1].shape
    if uphill > 1e-2 * usual_slope and guessed:
        return [
            note(
                Code.ORACLE_FLOOR, "not judged", f"{text}, at sure logits of the right class; `perfect` may say better"
            )
        ]
    if uphill > 1e-2 * usual_slope:
        others = ("loaded on one side", "normalised by the prediction", "blend inverted", "diagonal energy")
        return [
            fault(Code.ORACLE_FLOOR, "oracle floor", f"{text}; it still falls beyond the perfect answer", "", others)
        ]
    return [
        note(
            Code.ORACLE_FLOOR,
            "oracle floor",
            f"{text}; the perfect answer is the lowest point, and this the lowest value",
        )
    ]


def _slope(subject: ProbeTarget, output: Tensor, target: Any) -> tuple[float, float]:
    """The loss of an output, and the norm of its gradient."""
    at = output.detach().clone().requires_grad_()
    value = subject.loss(at, target)
    (gradient,) = torch.autograd.grad(value, at)
    return float(value.detach()), float(gradient.abs().double().square().sum().sqrt())


def independence(subject: ProbeTarget) -> list[Finding]:
    """P3: does the answer for one sample depend on the others of its batch?"""
    batch = subject.data[0]
    samples = count(batch)
    if samples < 2:
        return [note(Code.INDEPENDENCE, "not judged", "the first micro-batch has one sample")]
    alone = select(batch, torch.zeros(samples, dtype=torch.long))
    found = []
    for training in (False, True):
        first, second = (_answer(subject, one[0], training)[0] for one in (batch, alone))
        error = _apart(first, second)
        text = f"the first answer changes by {error:.2g} of itself with the other samples of the batch"
        if error <= SAME[_precision(subject, first)]:
            continue
        if not training:
            others = ("batch statistics per micro-batch", "eval never undone")
            return [fault(Code.INDEPENDENCE, "normalised over the batch", f"{text}, in evaluation mode", "", others)]
        found.append(note(Code.INDEPENDENCE, "in-batch coupling", f"{text}, in training mode: as BatchNorm does"))
    return found


def dependence(subject: ProbeTarget) -> list[Finding]:
    """P4: does the answer depend on every input, once something was learned?"""
    batch = subject.data[0]
    samples = count(batch)
    model, *_ = _learned(subject, steps=min(subject.steps, 20))
    model.eval()
    found = []
    with torch.no_grad():
        answer = _tensor(forward(model, batch[0]))
        for name, part in parts(batch[0]).items():
            other = _unlike(part)
            if torch.equal(other, part):
                found.append(note(Code.INPUTS, "not judged", f"{name} is the same in all samples"))
            elif torch.equal(_tensor(forward(model, changed(batch[0], part, other))), answer):
                text = f"{name}, {[*part.shape]}, was exchanged, and no answer changed"
                found.append(fault(Code.INPUTS, "network never sees an input", text, "", ("network never sees H",)))
    if samples > 1 and len(answer) == samples and bool((answer == answer[:1]).all()):
        found = [fault(Code.INPUTS, "constant answer", f"{samples} different samples get one answer")]
    return found


def by_heart(subject: ProbeTarget) -> list[Finding]:
    """P5: can the network learn its first micro-batch by heart?"""
    if not any(value.requires_grad for value in subject.model.parameters()):
        return [fault(Code.ONE_BATCH, "head frozen", "no parameter asks for a gradient", "", ("detached backbone",))]
    model, first, last, rate = _learned(subject, stop=0.01)
    found = []
    silent = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if silent:
        text = f"{len(silent)} tensors got no gradient: {listed(silent)}"
        found.append(warning(Code.ONE_BATCH, "detached backbone", text, "", ("head frozen", "loss detached")))
    ideal = subject.ideal(subject.data[0])
    least = _slope(subject, ideal, subject.data[0][1])[0] if isinstance(ideal, Tensor) else 0.0
    least = least if math.isfinite(least) and least < last else min(0.0, last)
    share = (last - least) / (first - least) if first > least else math.nan
    text = f"loss {first:.4g} → {last:.4g} in {subject.steps} steps of Adam at {rate:g} (perfect: {least:.4g})"
    if not share < 0.95:
        others = ("loss detached", "detached backbone", "oracle floor")
        return [*found, fault(Code.ONE_BATCH, "one batch is not learned", text, "", others)]
    if share > 0.3:
        found.append(warning(Code.ONE_BATCH, "one batch is hardly learned", text))
    return found


def modes(subject: ProbeTarget) -> list[Finding]:
    """P6: the loss of what was learned by heart, in training mode and in evaluation mode."""
    model, first, *_ = _learned(subject, stop=0.01)
    batch = subject.data[0]
    values = []
    with torch.no_grad():
        for training in (True, False):
            model.train(training)
            values.append(float(subject.loss_of(model, batch).detach()))
    train, evaluated = values
    if evaluated > 0.5 * first and evaluated > 5 * abs(train):
        text = (
            f"one batch: loss {train:.4g} in training mode, {evaluated:.4g} in evaluation mode, {first:.4g} untrained"
        )
        others = ("averaged weights not restored", "validation of the averaged weights only", "eval never undone")
        return [warning(Code.EVALUATION, "evaluation is another network", text, "", others)]
    return []


def resumed(subject: ProbeTarget) -> list[Finding]:
    """P7: two steps, saved, loaded and two steps more, against four steps on end."""
    whole, again = (_run(subject, *_pair(subject), 4) for _ in range(2))
    if not torch.equal(weights(whole), weights(again)):
        return [
            note(
                Code.RESUME,
                "not judged",
                "two equal runs differ: something draws numbers that no seed of torch governs",
            )
        ]
    with seeded(subject.seed):
        model, optimizer = _pair(subject)
        _steps(subject, model, optimizer, range(2))
        state = reloaded({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        other, fresh = _pair(subject)
        other.load_state_dict(state["model"])
        fresh.load_state_dict(state["optimizer"])
        _steps(subject, other, fresh, range(2, 4))
    if torch.equal(weights(whole), weights(other)):
        return []
    differs = [
        name
        for (name, one), two in zip(whole.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(one, two)
    ]
    text = f"after saving and loading, {len(differs) or 'no'} tensors go another way: {listed(differs)}"
    others = ("random state not restored", "averaged weights not restored")
    return [fault(Code.RESUME, "state outside of state_dict", text, "", ("optimiser not restored", *others))]


def ranges(subject: ProbeTarget) -> list[Finding]:
    """P8: what half precision makes of the loss, and weights in half precision of a step."""
    model, batch = subject.copy().train(), subject.data[0]
    kinds = {value.dtype for value in model.parameters()}
    half = precision_of(kinds) if kinds & {torch.float16, torch.bfloat16} else ""
    found = []
    device = next((value.device.type for value in parts(batch[0]).values()), "cpu")
    with torch.no_grad():
        full = float(subject.loss_of(model, batch).detach())
        if half and not math.isfinite(full):
            others = ("epsilon vanishes in half precision", "complex numbers in half precision")
            text = f"the weights are {half}, and the loss is {full}"
            found.append(fault(Code.HALF_PRECISION, "squares overflow in half precision", text, "", others))
        if not half:
            with torch.autocast(device, dtype=torch.float16):
                low = float(subject.loss_of(subject.copy().train(), batch).detach())
            if math.isfinite(full) and not math.isfinite(low):
                text = f"loss {full:.4g} as it is, and {low} under autocast to float16"
                vanishing = ("epsilon vanishes in half precision",)
                found.append(note(Code.HALF_PRECISION, "squares overflow in half precision", text, vanishing))
    squares = float(sum(part.detach().abs().double().square().sum() for part in parts(batch[1]).values()))
    if squares > LARGEST_HALF:
        text = f"the squares of a target batch sum up to {squares:.3g}; float16 ends at {LARGEST_HALF:g}"
        found.append(note(Code.HALF_PRECISION, "squares overflow in half precision", text))
    return [*found, *(_lost_updates(subject, model, half) if half else [])]


def _lost_updates(subject: ProbeTarget, model: nn.Module, half: str) -> list[Finding]:
    before = [value.detach().clone() for value in model.parameters()]
    _steps(subject, model, subject.optimizer_for(model), range(1))
    pairs = [
        (old, new)
        for old, new in zip(before, model.parameters(), strict=True)
        if new.grad is not None and new.grad.any()
    ]
    total = sum(old.numel() for old, _ in pairs)
    still = sum(int(((old == new) & (new.grad != 0)).sum()) for old, new in pairs)
    if not total or still <= total / 2:
        return []
    text = f"{still} of {total} weights, kept in {half}, did not move in a step: it is less than half their last digit"
    return [fault(Code.HALF_PRECISION, "weights kept in bf16", text, "", ("warm-up counted in samples", "head frozen"))]


def samples(subject: ProbeTarget) -> list[Finding]:
    """P9: samples that occur twice, or in training and validation; a forward that sets the random state."""
    known, fresh = _prints(subject.data), _prints(subject.held_out)
    found = []
    twice = len(known) - len(set(known))
    shared = len(set(known) & set(fresh))
    if twice:
        found.append(warning(Code.DUPLICATES, "duplicate samples", f"{twice} of {len(known)} samples occur before"))
    if shared:
        found.append(
            fault(
                Code.DUPLICATES, "split leakage", f"{shared} of {len(fresh)} held-out samples are in the training data"
            )
        )
    ends = []
    for seed in (1, 2):
        with seeded(seed):
            forward(subject.copy().train(), subject.data[0][0])
            ends.append(torch.get_rng_state())
    if torch.equal(*ends):
        text = "after a forward, torch's random state is the same whatever it was before"
        found.append(
            fault(Code.DUPLICATES, "random state set in the forward", text, "", ("random state not restored",))
        )
    return found


def equivalence(subject: ProbeTarget) -> list[Finding]:
    """P10: a window of micro-batches against one batch of all its samples."""
    batches = subject.data[: subject.accumulation_steps]
    if len(batches) < 2:
        return [note(Code.EQUIVALENCE, "not judged", "a window of one micro-batch is one batch")]
    sizes = [count(batch) for batch in batches]
    model = subject.copy().train()
    whole = subject.gradient(subject.copy().train(), [joined(batches)], [1.0])
    errors = []
    for shares in ([size / sum(sizes) for size in sizes], [1.0] * len(sizes)):
        with seeded(subject.seed):
            found = compare(_real(subject.gradient(model, batches, shares)), _real(whole))
        errors.append(found.relative_error)
        model = subject.copy().train()
    error = min(errors)
    if not error > GRADIENT_TOLERANCES[_precision(subject, whole)][0]:
        return []
    text = f"{len(batches)} micro-batches against one batch: gradients differ by {error:.2g} of themselves"
    return [
        note(Code.EQUIVALENCE, "in-batch coupling", f"{text}; BatchNorm, dropout and contrasts do that, and no loop")
    ]


PROBES: dict[str, Callable[[ProbeTarget], list[Finding]]] = {
    "P1": poisoned,
    "P2": floor,
    "P3": independence,
    "P4": dependence,
    "P5": by_heart,
    "P6": modes,
    "P7": resumed,
    "P8": ranges,
    "P9": samples,
    "P10": equivalence,
}


def _learned(
    subject: ProbeTarget, steps: int | None = None, stop: float = 0.0
) -> tuple[nn.Module, float, float, float]:
    """A copy after Adam on the first micro-batch at the best of some rates, its loss before and after, and the rate."""
    tried = []
    for rate in RATES:
        with seeded(subject.seed):
            model = subject.copy().train()
            adam = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=rate)
            losses = []
            for _ in range(steps or subject.steps):
                losses += _steps(subject, model, adam, (0,))
                if not math.isfinite(losses[-1]) or abs(losses[-1]) <= stop * abs(losses[0]):
                    break
        tried.append((model, losses[0], losses[-1], rate))
        if abs(losses[-1]) <= max(stop, 0.1) * abs(losses[0]):
            break
    return min(tried, key=lambda one: one[2] if math.isfinite(one[2]) else math.inf)


def _pair(subject: ProbeTarget) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = subject.copy().train()
    return model, subject.optimizer_for(model)


def _run(subject: ProbeTarget, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> nn.Module:
    with seeded(subject.seed):
        _steps(subject, model, optimizer, range(steps))
    return model


def _steps(
    subject: ProbeTarget, model: nn.Module, optimizer: torch.optim.Optimizer, places: Iterable[int]
) -> list[float]:
    """A step on each of some micro-batches; the losses before them."""
    losses = []
    for place in places:
        optimizer.zero_grad(set_to_none=True)
        loss = subject.loss_of(model, subject.data[place % len(subject.data)])
        loss.backward()
        optimizer.step(partial(float, loss.detach()) if isinstance(optimizer, torch.optim.LBFGS) else None)
        losses.append(float(loss.detach()))
    return losses


def _answer(subject: ProbeTarget, inputs: Any, training: bool) -> Tensor:
    with torch.no_grad(), seeded(subject.seed):
        return _tensor(forward(subject.copy().train(training), inputs))


def _tensor(output: Any) -> Tensor:
    """The first tensor of an output."""
    return next(iter(parts(output).values()))


def _apart(first: Tensor, second: Tensor) -> float:
    length = float(first.abs().double().norm())
    return float((first - second).abs().double().norm()) / length if length else 0.0


def _unlike(part: Tensor) -> Tensor:
    """The samples of a tensor moved on by one; with other values, where all samples are the same."""
    moved = part.roll(1, 0) if part.dim() else part
    if torch.equal(moved, part) and (part.is_floating_point() or part.is_complex()):
        return part + torch.randn_like(part) * (1 + part.abs())
    return moved


def _real(gradient: Tensor) -> Tensor:
    return torch.view_as_real(gradient).flatten() if gradient.is_complex() else gradient


def _precision(subject: ProbeTarget, output: Tensor) -> str:
    return precision_of([value.dtype for value in subject.model.parameters()] + [output.dtype])


def _prints(batches: Sequence[Any]) -> list[str]:
    """A fingerprint of each sample's inputs."""
    found = []
    for batch in batches:
        held = [part.detach().cpu() for part in parts(batch[0]).values() if part.dim()]
        for place in range(count(batch)):
            rows = [part[place].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for part in held]
            found.append(hashlib.sha256(b"".join(rows)).hexdigest())
    return found
