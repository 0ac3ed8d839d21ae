"""The probes: what no look at a running loop can show, tried out on copies.

    rislab.probe(model, loss, data, train=train, optimizer=optimizer, held_out=fresh)

`data` are micro-batches, pairs of inputs and target. Nothing that is given is changed: no weight, no optimiser, no
random state.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup.findings import Finding, Findings, as_fault, as_note, as_warning
from rislab.checkup.probes.half_precision import half_precision
from rislab.checkup.probes.loss_probe import loss_at_truth
from rislab.checkup.probes.network_probes import NAMES, described, evaluated_twice, not_tried, runner
from rislab.checkup.probes.one_batch import one_batch_by_heart
from rislab.checkup.probes.probe_batches import (
    apply_model,
    arguments_of,
    as_pairs,
    bits_of_sample,
    by_sample,
    concatenate,
    exchange,
    leaves_of,
    of_other_samples,
    same_leaf,
    sample_count,
    sample_hashes,
    samples_differ,
    tensors_in,
)
from rislab.checkup.probes.probe_target import ProbeTarget, Train
from rislab.checkup.probes.resume_probe import resumed_run
from rislab.checkup.probes.sample_mixing import Mixing, find_mixing, why_meant
from rislab.checkup.probes.seeds import one_seed
from rislab.checkup.recording.gradients import GRADIENT_TOLERANCES, compare_gradients
from rislab.checkup.recording.own_operations import unwatched
from rislab.checkup.recording.tracking import NORMS
from rislab.checkup.rules import Code
from rislab.errors import InputError, check_choice, check_number

# Samples that can differ in so many bits are not the same by chance.
TELLING_BITS = 32


def probe(
    model: nn.Module,
    loss: Callable[..., Any] | None,
    data: Sequence[Any],
    *,
    train: Train | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    scaler: Any = None,
    held_out: Sequence[Any] = (),
    accumulation_steps: int | None = None,
    perfect: Callable[[Any], Any] | None = None,
    only: Iterable[str] = (),
    steps: int = 200,
    seed: int = 0,
) -> Findings:
    """Try eleven things out on copies of a network.

    Args:
        model: called as model(inputs), model(*inputs) or model(**inputs); of a mapping it gets what it has names for.
        loss: called as loss(output, target); None for a network whose output has a `loss` of its own.
        data: micro-batches; samples come first. Each is a pair (inputs, target) of tensors, tuples, mappings, or lists
            with a tensor a sample; or a mapping that holds both, which then is inputs and target.
        train: the loop itself, called as train(model, optimizer, data), that returns one loss an epoch; P1 needs it.
        optimizer: of the model; copies get a fresh one of its class and options, or Adam.
        scheduler: of the optimizer; copies of it tick once a step in P7.
        scaler: of the loss; P7 saves and loads a copy.
        held_out: micro-batches of the validation.
        accumulation_steps: micro-batches in the window of P10, ≥ 1; all if None.
        perfect: makes of a target what a perfect network would put out; P2 needs it for losses that torch has not.
        only: codes of the probes to run, all if empty.
        steps: of the network that learns one batch by heart, ≥ 1.
        seed: of the random numbers in the copies' training, ≥ 0.

    Returns:
        Findings; what could not be tried is a note.

    Raises:
        InputError: for a value that is not allowed.
    """
    codes = tuple(only) or tuple(PROBES)
    batches, fresh = list(data), list(held_out)
    given = ProbeTarget(model, loss, batches, train, optimizer, fresh, 1, perfect, steps, seed, scheduler, scaler)
    target = _checked(given, accumulation_steps, codes)
    with unwatched():
        return Findings(finding for code in codes for finding in _run(Code(code), target)).in_cells()


def _checked(target: ProbeTarget, accumulation_steps: int | None, codes: Sequence[str]) -> ProbeTarget:
    """What is probed, with its micro-batches as pairs; raises InputError for what is not allowed."""
    if not isinstance(target.model, nn.Module):
        raise InputError(f"model is a {type(target.model).__name__}; allowed: a Module")
    for name, call in (("loss", target.loss), ("train", target.train), ("perfect", target.perfect)):
        if not callable(call) and call is not None:
            raise InputError(f"{name} is a {type(call).__name__}; allowed: a function")
    if target.scheduler is not None and target.optimizer is None:
        raise InputError("scheduler is given without its optimizer; allowed: both")
    if not target.data:
        raise InputError("data is empty; allowed: at least one micro-batch")
    if accumulation_steps is not None:
        check_number("accumulation_steps", accumulation_steps, 1, 1_000_000, integer=True)
    check_number("steps", target.steps, 1, 1_000_000, integer=True)
    check_number("seed", target.seed, 0, 2**63 - 1, integer=True)
    for code in codes:
        check_choice("only", code, PROBES)
    return replace(
        target,
        data=as_pairs("data", target.model, target.data),
        held_out=as_pairs("held_out", target.model, target.held_out),
        accumulation_steps=min(accumulation_steps or len(target.data), len(target.data)),
    )


def _run(code: Code, target: ProbeTarget) -> list[Finding]:
    """The findings of one probe; whatever a stranger's code raises says that it could not be tried."""
    try:
        # A schedule warns of an optimiser that it did not wrap itself.
        with one_seed(target.seed), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PROBES[code.value](target)
    except Exception as error:
        return [not_tried(code, error)]


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
    batches: list[Any] = [*target.data]
    batches[place] = (exchange(inputs, first, torch.full_like(first, math.inf)), answer)
    model = target.copy()
    raw = target.raw_loss(batches[place])
    if math.isfinite(raw):
        text = f"with infinity in its inputs the network still has a loss of {raw:.4g}"
        return [as_note(Code.NAN_SURVIVES, "not judged", text)]
    # A mapping that holds both is given to the loop as it was.
    batches = [inputs if inputs is answer else (inputs, answer) for inputs, answer in batches]
    try:
        reported = [float(value) for value in target.train(model, target.optimizer_for(model), batches)]
    except Exception as error:
        text = f"infinity in micro-batch {place + 1}: {type(error).__name__}"
        return [as_note(Code.NAN_SURVIVES, "stops at infinity", text)]
    shown = ", ".join(f"{value:.4g}" for value in reported[:3])
    text = f"infinity in micro-batch {place + 1} of {len(batches)}: reported {shown}"
    if reported and all(map(math.isfinite, reported)):
        aliases = ("NaN guard in the loop", "NaN written as 0")
        evidence = f"{text}, as if nothing were wrong"
        return [as_fault(Code.NAN_SURVIVES, "NaN replaced by the running mean", evidence, "", aliases)]
    if not all(bool(torch.isfinite(value).all()) for value in model.parameters()):
        evidence = f"{text}; the weights are NaN, and no later batch can mend them"
        return [as_note(Code.NAN_SURVIVES, "NaN reached a step", evidence)]
    return []


def independence(target: ProbeTarget) -> list[Finding]:
    """P3: does the answer for one sample depend on the others of its batch?"""
    code = Code.INDEPENDENCE
    arguments = arguments_of(target.model, target.data[0][0])
    precision = target.first_batch_precision()
    copies = {mode: target.copy() for mode in ("evaluation", "training", "without BatchNorm")}
    copies["evaluation"].eval()
    for module in copies["without BatchNorm"].modules():
        if isinstance(module, NORMS):
            module.eval()
    with torch.no_grad():
        run = runner(copies["evaluation"], target.seed)
        mixing = find_mixing(run, arguments, precision)
        if mixing is None:
            return [as_note(code, "not judged", "no two samples of the first micro-batch can be told apart in answers")]
        if mixing.kind == "place" and evaluated_twice(target.copy(), arguments):
            return []  # another place, other random numbers: TWICE says so
        if mixing.kind:
            meant = why_meant(copies["evaluation"], run, arguments, mixing)
            return [_of_mixing(mixing, "" if _is_sample_wise(target) and mixing.other_dimension > 0 else meant)]
        for mode in ("without BatchNorm", "training"):
            mixing = find_mixing(runner(copies[mode], target.seed), arguments, precision)
            # What dropout does to an answer depends on its place.
            if mixing is None or mixing.kind in ("", "place"):
                continue
            if mode != "training" and mixing.kind == "others":
                return [_of_mixing(mixing, "", mode="training")]
            layers = "as BatchNorm does" if mode == "training" else "with BatchNorm left out"
            text = f"a sample changes the answers of others by {mixing.error:.2g} of themselves, in training mode"
            return [as_note(code, "in-batch coupling", f"{text}, {layers}")]
    return []


def _is_sample_wise(target: ProbeTarget) -> bool:
    """Whether the targets of the first micro-batch tell that samples come first: one number each."""
    truths = [*tensors_in(target.data[0][1]).values()]
    return len(truths) == 1 and truths[0].dim() == 1 and len(truths[0]) == sample_count(target.data[0])


def _of_mixing(mixing: Mixing, meant: str, mode: str = "evaluation") -> Finding:
    text = described(mixing, mode)
    if meant:
        return as_note(Code.INDEPENDENCE, "not judged", f"{text}; {meant}")
    if mixing.kind == "some":
        return as_warning(Code.INDEPENDENCE, NAMES[mixing.kind], text)
    return as_fault(Code.INDEPENDENCE, NAMES[mixing.kind], text)


def use_of_inputs(target: ProbeTarget) -> list[Finding]:
    """P4: does the answer depend on every input, once something was learned?"""
    code, (inputs, truth) = Code.INPUTS, target.data[0]
    model = target.learn_by_heart(steps=min(target.steps, 20)).model.eval()
    samples = sample_count(target.data[0])
    findings, differ = [], False
    args, named = arguments_of(model, inputs)
    given = inputs if args else named
    targets = [*tensors_in(truth if truth is not inputs else {}).values()]
    with torch.no_grad():
        answers = tensors_in(apply_model(model, given))
        for name, leaf in leaves_of(given).items():
            # What has no entry for each sample, as the edges of a graph, cannot be exchanged between them.
            if not by_sample(leaf, samples):
                continue
            differ |= samples_differ(leaf)
            if any(leaf is one for one in targets):
                continue
            other = of_other_samples(leaf)
            if same_leaf(other, leaf):
                findings.append(as_note(code, "not judged", f"{name} is the same in all samples"))
                continue
            changed = tensors_in(apply_model(model, exchange(given, leaf, other)))
            if all(same_leaf(one, two) for one, two in zip(answers.values(), changed.values(), strict=True)):
                text = f"{name}, {_shape_of(leaf)}, was exchanged, and no answer changed"
                findings.append(as_fault(code, "network never sees an input", text, "", ("network never sees H",)))
    rows = [answer for answer in answers.values() if answer.dim() and len(answer) == samples]
    if differ and rows and all(bool((answer == answer[:1]).all()) for answer in rows):
        return [as_fault(code, "constant answer", f"{samples} samples that differ get one answer")]
    return findings


def _shape_of(leaf: Any) -> str:
    return str([*leaf.shape]) if isinstance(leaf, Tensor) else f"{len(leaf)} tensors"


def train_and_eval_mode(target: ProbeTarget) -> list[Finding]:
    """P6: the loss of what was learned by heart, in training mode and in evaluation mode."""
    model, first, *_ = target.learned
    trained, evaluated = (target.raw_loss(target.data[0], model.train(training)) for training in (True, False))
    if not (evaluated > 0.5 * first and evaluated > 5 * abs(trained)):
        return []
    text = f"one batch: loss {trained:.4g} in training mode, {evaluated:.4g} in evaluation mode, {first:.4g} untrained"
    aliases = ("validation of the averaged weights only", "eval never undone")
    return [as_warning(Code.EVALUATION, "evaluation is another network", text, "", aliases)]


def duplicates(target: ProbeTarget) -> list[Finding]:
    """P9: samples that occur twice, or in training and validation; a forward that sets the random state."""
    code = Code.DUPLICATES
    known, fresh = sample_hashes(target.data), sample_hashes(target.held_out)
    findings = []
    twice, shared = len(known) - len(set(known)), len(set(known) & set(fresh))
    # A few small integers are often the same by chance.
    telling = min(map(bits_of_sample, (*target.data, *target.held_out))) >= TELLING_BITS
    if twice:
        text = f"{twice} of {len(known)} samples occur before"
        findings.append((as_warning if telling else as_note)(code, "duplicate samples", text))
    if shared:
        text = f"{shared} of {len(fresh)} held-out samples are in the training data"
        findings.append((as_fault if telling else as_note)(code, "split leakage", text))
    states = []
    for seed in (1, 2):
        with one_seed(seed):
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
    one_batch = target.gradient(target.copy(), [concatenate(batches)], [1.0])
    model, parts = target.copy(), []
    for batch in batches:
        with one_seed(target.seed):
            parts.append(target.gradient(model, [batch], [1.0]))
    each = torch.stack(parts).double()
    limit = GRADIENT_TOLERANCES[target.precision(one_batch)][0]
    shares = [torch.tensor(sizes).double() / sum(sizes), torch.ones(len(sizes)).double()]
    if 4 * len(sizes) < each.shape[1]:
        # A mean over tokens, or over targets that are not ignored, has shares of its own; coupling fits none.
        shares.append(torch.linalg.lstsq(each.T, one_batch.double()[:, None]).solution[:, 0])
    error = min(compare_gradients(share @ each, one_batch).relative_error for share in shares)
    if not error > limit:
        return []
    text = f"{len(batches)} micro-batches against one batch: gradients differ by {error:.2g} of themselves"
    return [as_note(code, "in-batch coupling", f"{text}; BatchNorm, dropout and contrasts do that, and no loop")]


def evaluation_twice(target: ProbeTarget) -> list[Finding]:
    """P11: the same input twice in evaluation mode."""
    with torch.no_grad():
        return evaluated_twice(target.model, arguments_of(target.model, target.data[0][0]))


PROBES: Mapping[str, Callable[[ProbeTarget], list[Finding]]] = {
    Code.NAN_SURVIVES.value: nan_survives,
    Code.LOSS_MINIMUM.value: loss_at_truth,
    Code.INDEPENDENCE.value: independence,
    Code.INPUTS.value: use_of_inputs,
    Code.ONE_BATCH.value: one_batch_by_heart,
    Code.EVALUATION.value: train_and_eval_mode,
    Code.RESUME.value: resumed_run,
    Code.HALF_PRECISION.value: half_precision,
    Code.DUPLICATES.value: duplicates,
    Code.EQUIVALENCE.value: window_as_one_batch,
    Code.TWICE.value: evaluation_twice,
}
