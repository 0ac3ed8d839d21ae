"""What is tried at the end of a run on copies of the networks that were trained, with inputs that they were given."""

from __future__ import annotations

import contextlib
import io
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer
from torch.utils.data import RandomSampler

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.token_targets import TokenTargets, is_tokens
from rislab.checkup.probes.function_probes import function_probes
from rislab.checkup.probes.network_copies import copy_network
from rislab.checkup.probes.network_probes import network_probes, precision_in, runner
from rislab.checkup.probes.outer_values import keeps_outside
from rislab.checkup.probes.probe_batches import map_leaves, tensors_in
from rislab.checkup.probes.sample_mixing import SAME
from rislab.checkup.probes.seeds import one_seed
from rislab.checkup.probes.sequence_probes import sequence_probes
from rislab.checkup.recording.call_stack import definition_of
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.recording.tensors import may_live_on, tensors_of
from rislab.checkup.rules import Code

ONLY_EVALUATED = ("dropout in evaluation mode", "evaluation changes the network")
# Larger networks and inputs are not tried, nor are more networks than these.
WEIGHTS, NUMBERS, WORK, NETWORKS = 20_000_000, 1_000_000, 500_000_000, 6
# So many batches in a row that begin with the state of the one before are no accident.
BATCHES, CARRIED = 4, "state carried to the next call"
# So many groups of optimisers are known.
STEPPED = 16
# Who repeats so many tokens has learned to, unless one token is that common.
LEARNED, COMMON = 0.9, 0.5
PLAIN = (Tensor, int, float, bool, str, type(None))


@dataclass
class _Call:
    """The last call of a network that was looked at, in training mode."""

    network: nn.Module  # that was called
    args: tuple[Any, ...]  # of the call, without a graph
    named: dict[str, Any]  # of the call, by name
    shuffled: bool = False  # whether as many samples come in each batch of a loader that takes them in random order


class FinalProbes(Observer):
    """Tries each network that an optimiser stepped, when the run is over and no error has ended it.

    The targets of the run tell what networks are to foresee the next token.
    """

    def __init__(self, targets: TokenTargets) -> None:
        self._targets = targets
        self._calls: dict[int, _Call] = {}
        self._evaluated: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._stepped: dict[int, Tensor] = {}  # held, as an address may be that of another tensor later
        # Tensors that recurrent networks held after a forward, and how many forwards in a row began with them.
        self._left: dict[int, dict[str, Tensor]] = {}
        self._carried: Counter[int] = Counter()
        self._findings: list[Finding] = []
        self._batch = 0  # samples of a batch of the last loader that a pass began over, 0 if it does not shuffle

    def on_pass(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        loader = args[0]
        self._batch = loader.batch_size or 0 if isinstance(loader.sampler, RandomSampler) else 0

    def on_forward(self, module: nn.Module, training: bool) -> None:
        left = self._left.pop(id(module), None) if self._left else None
        if left:
            now = _states(module)
            same = all(now.get(name) is value for name, value in left.items())
            self._carried[id(module)] = self._carried[id(module)] + 1 if same else 0

    def on_look(self, call: ForwardEvent) -> None:
        """Keep the arguments of a small call."""
        key = id(call.module)
        if not call.training:
            self._evaluated.add(call.module)
        elif (
            torch.is_grad_enabled()
            and next(nn.Module.parameters(call.module), None) is not None  # a transform of samples has none
            and (key in self._calls or may_live_on(call.module, len(self._calls), NETWORKS))
        ):
            arguments = (call.args, dict(call.kwargs))
            small = sum(value.numel() for value in tensors_of(arguments)) <= NUMBERS
            if small and _is_plain(arguments):
                args, named = map_leaves(arguments, lambda value: value.detach())
                self._calls[key] = _Call(call.module, args, named, call.samples == self._batch)
                if self._calls[key].shuffled:
                    self._left[key] = _states(call.module)

    def on_optimizer(self, optimizer: Optimizer) -> None:
        self._optimizers.add(optimizer)
        self._note_stepped(optimizer)

    def _note_stepped(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            first = next(iter(group["params"]), None)
            # No weak reference: torch.utils.swap_tensors() refuses a tensor that has one.
            if first is not None and len(self._stepped) < STEPPED:
                self._stepped[id(first)] = first

    def end(self, error: BaseException | None) -> None:
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        if error is None and alone:
            for optimizer in self._optimizers:  # groups may have been added since the first step
                self._note_stepped(optimizer)
            with without_global_hooks(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for call in self._calls.values():
                    self._try(call)
        self._calls, self._stepped = {}, {}

    def _try(self, call: _Call) -> None:
        trained = any(id(value) in self._stepped for value in nn.Module.parameters(call.network))
        if not trained or not can_be_tried(call.network, call.args, call.named):
            return
        try:
            results = network_probes(call.network, call.args, call.named, call.shuffled)
        except RuntimeError:
            # Tensors of a transformation that is over, as of vmap: they can be used no more.
            return
        results += sequence_probes(call.network, call.args, call.named)
        results += function_probes(call.network, call.args, call.named)
        results += token_probes(self._targets, call.network, call.args, call.named)
        where = definition_of(vars(type(call.network)).get("forward"))
        for one in results:
            if one.name == CARRIED and call.shuffled and self._carried[id(call.network)] >= BATCHES:
                text = f"{one.evidence}, and batches of shuffled samples began with what the batch before had left"
                one = as_fault(Code.TWICE, CARRIED, text)
            # A dropout that is never off, or a queue that is filled, matters where the network is evaluated.
            unused = one.name in ONLY_EVALUATED and call.network not in self._evaluated
            if one.severity != "note" and not unused:
                self._findings.append(replace(one, where=one.where or where))

    def findings(self) -> list[Finding]:
        """Faults and warnings; what could not be tried is none."""
        return self._findings


def _states(network: nn.Module) -> dict[str, Tensor]:
    """Tensors that the modules of a recurrent network hold, by name, without weights and buffers."""
    modules = dict(network.named_modules())
    if not any(isinstance(one, nn.RNNBase | nn.RNNCellBase) for one in modules.values()):
        return {}
    plain = {(prefix, name): value for prefix, one in modules.items() for name, value in vars(one).items()}
    tensors = {
        f"{prefix}.{path}": tensor
        for (prefix, name), value in plain.items()
        if isinstance(value, Tensor | tuple | list)
        for path, tensor in tensors_in(value, name).items()
    }
    return {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, nn.Parameter)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


@contextlib.contextmanager
def without_global_hooks() -> Iterator[None]:
    """Hooks that were registered for all modules are not called by what is tried."""
    held: list[tuple[Any, list[tuple[Any, Any]]]] = []
    for register in (register_module_forward_pre_hook, register_module_forward_hook):
        handle = register(lambda *_: None)
        hooks = handle.hooks_dict_ref() or {}
        handle.remove()
        held.append((hooks, [*hooks.items()]))
        hooks.clear()
    try:
        yield
    finally:
        for hooks, items in held:
            hooks.update(items)


def can_be_tried(network: nn.Module, args: Any, named: Any) -> bool:
    """Whether a network is small, runs in this process alone, and keeps nothing outside of itself."""
    kinds = {type(module) for module in network.modules()}
    if any(kind.__name__ in ("OptimizedModule", "FullyShardedDataParallel") for kind in kinds):
        return False
    if any(issubclass(kind, nn.DataParallel | nn.parallel.DistributedDataParallel) for kind in kinds):
        return False
    weights = sum(value.numel() for value in nn.Module.parameters(network))
    largest = max((value.shape[0] for value in tensors_of((args, named)) if value.dim()), default=0)
    if weights > WEIGHTS or not largest > 0 or weights * largest > WORK:
        return False
    return not any(keeps_outside(kind) for kind in kinds)


def token_probes(
    targets: TokenTargets, network: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> list[Finding]:
    """Faults and warnings of a network whose targets are the tokens that it is given, or the next ones."""
    places = {shift: targets.input_with_shift(network, shift) for shift in (0, 1)}
    known = ((shift, place) for shift, place in places.items() if place is not None)
    return [finding for shift, place in known for finding in tried_on_tokens(network, args, named, shift, place)]


def tried_on_tokens(
    network: nn.Module, args: tuple[Any, ...], named: dict[str, Any], shift: int, place: int
) -> list[Finding]:
    """A finding if answers do not change with other tokens as they should.

    The targets of the network are inputs of it, moved by a shift of 0 or 1: those at a place among its rows of tokens.
    """
    arguments = (args, named)
    tokens = [value for value in tensors_of(arguments) if is_tokens(value)][place:]
    with one_seed(0), torch.no_grad():
        try:
            run, tolerance = runner(copy_network(network).eval()), SAME[precision_in(network, arguments)]
            before = run(arguments)
            place = tokens[0].shape[1] // 2
            ends = slice(place), slice(place, None), slice(-1, None)
            later, earlier, own = (
                _change(run, arguments, tokens[0], before, ends[of], ends[on], shift == 0)
                for of, on in ((1, 0), (0, 1), (2, 2))
            )
            repeated = _repeated(before, tokens[0])
        except Exception:
            # What cannot be tried tells nothing: this is no judgement of the loop.
            return []
    if shift == 1 and later > tolerance:
        text = "targets are the inputs one place on, and in evaluation mode an answer changes with the inputs after "
        text += f"it, by {later:.2g} of itself"
        return [as_fault(Code.ARGUMENTS, "the target is visible in the input", text)]
    # A network that puts its first token before the others shifts by itself: an answer never depends on its own input.
    if shift == 0 and later <= tolerance < min(earlier, own):
        text = "targets are the inputs themselves, place by place, and an answer changes with the inputs before it "
        text += f"(by {earlier:.2g} of itself), not with those after it: it learns to repeat what it is given"
        learned = repeated >= LEARNED
        text += f", and has learned that: {repeated:.0%} of its answers are the token itself" * learned
        return [(as_fault if learned else as_warning)(Code.ARGUMENTS, "labels never shifted", text)]
    return []


def _repeated(answers: Any, tokens: Tensor) -> float:
    """The share of the places whose largest answer is that of the token there; 0 where one token is that common."""
    if float((tokens == tokens.mode().values.mode().values).double().mean()) > COMMON:
        return 0.0
    shares = [
        float((one.argmax(2) == tokens).double().mean())
        for one in tensors_in(answers).values()
        if one.dim() == 3 and one.shape[:2] == tokens.shape
    ]
    return max(shares, default=0.0)


def _change(run: Any, arguments: Any, tokens: Tensor, before: Any, half: slice, rest: slice, every: bool) -> float:
    """How much the answers of some places change with the tokens of others; 0 if not at all.

    Tokens become those of other rows, or `every` one the next of the vocabulary, where rows may end alike.
    """
    rows, columns = tokens.shape
    changed = tokens.clone()
    lowest, count = tokens.min(), tokens.max() - tokens.min() + 1
    others = lowest + (tokens - lowest + 1) % count if every else tokens.roll(1, 0)
    changed[:, half] = others[:, half] if every else others[:, half].flip(1)
    after = run(map_leaves(arguments, lambda leaf: changed if leaf is tokens else leaf))
    largest = 0.0
    for one, two in zip(tensors_in(before).values(), tensors_in(after).values(), strict=True):
        if one.shape != two.shape or one.dim() != 3 or tuple(one.shape[:2]) != (rows, columns):
            continue
        own = one[:, rest].double()
        largest = max(largest, float((two[:, rest].double() - own).norm() / own.norm().clamp_min(1e-30)))
    return largest
