"""Loaders that do not give what they should: the first batch at each step, no batch, a few samples, other classes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from rislab.checkup.findings import Finding, as_fault, as_warning, listed
from rislab.checkup.observers.loss_arguments import loss_arguments
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.tensors import few_coordinates
from rislab.checkup.rules import Code

# So many passes that end after one step are no accident.
CERTAIN = 8
# So many passes over a loader in its own order must differ.
PASSES = 3
# The share of the samples of a subset that is no accident, nor meant.
SHARE = 0.05
# Samples of a dataset whose classes are looked at.
SAMPLES = 200_000


# Another dataset may have the address of one that is gone.
_Part = tuple[weakref.ref[Any], frozenset[int]]


@dataclass
class _Pass:
    """A pass over a loader in its own order."""

    batches: int  # that it would give
    where: str  # file and line of the loop
    first: Tensor | None = None  # a few numbers of the first input that was trained on, None before it
    steps: int = 0  # since it began
    forwards: int = 0  # in training, since it began
    evaluated: Tensor | None = None  # a few numbers of the first input that was evaluated, None before it
    differentiated: bool = False  # whether a forward with gradients came


@dataclass
class _Subsets:
    """Parts of datasets that loaders give: that of the pass which runs, and that of the last one in training.

    A part is its dataset, and the places of its samples there.
    """

    now: _Part | None = None
    trained: _Part | None = None
    common: str = ""  # how many samples both have
    where: str = ""  # file and line of the loop over the part
    leaks: dict[str, str] = field(default_factory=dict)  # what evaluations have in common with the training, by line

    def begin(self, chosen: _Part | None, where: str) -> None:
        """A pass begins, None if its part is not known, and ends the one before."""
        if self.common:
            self.leaks.setdefault(self.where, self.common)
        self.now, self.common, self.where = chosen, "", where
        if chosen is None or self.trained is None or chosen[0]() is not self.trained[0]():
            return
        both, total, of = len(chosen[1] & self.trained[1]), len(chosen[1]), len(self.trained[1])
        if SHARE * total <= both <= (1 - SHARE) * total and both <= (1 - SHARE) * of:
            self.common = f"{both} of {total} samples of the evaluation are among the {of} of the training before it"

    def note_step(self) -> None:
        """The pass is one of the training."""
        self.trained, self.common = self.now, ""


class LoaderPasses(Observer):
    """Listens to the iterators of loaders, and to the training that follows."""

    def __init__(self, steps: StepCount) -> None:
        self._steps, self._before_pass = steps, 0  # and how many came before the pass
        self._begun: list[tuple[DataLoader[Any], str, int]] = []  # with the steps that were only counted
        self._now: _Pass | None = None
        self._before: _Pass | None = None
        self._again: dict[str, tuple[int, int]] = {}  # by line: passes of one step with one batch, and its batches
        self._findings: dict[tuple[str, str], Finding] = {}
        # By the classes of a loader's samples, None if unknown: where it is read, and the steps in its passes.
        self._classes: dict[frozenset[int] | None, list[Any]] = {}
        self._reads: list[Any] = ["", 0]
        self._outputs = 0
        # First inputs of evaluations, by loader and line.
        self._evaluated: dict[tuple[weakref.ref[DataLoader[Any]], str], list[Tensor]] = {}
        self._key: tuple[weakref.ref[DataLoader[Any]], str] | None = None
        self.sizes: set[int] = set()  # of datasets
        self._looks = Looks()
        self._subsets = _Subsets()

    def on_pass(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._begun = [*self._begun[-1:], (args[0], caller()[0], self._steps.counted)]

    def on_forward_end(self, call: ForwardEvent) -> None:
        self._look_at_begun()
        now = self._now
        if now is not None and call.inputs and not call.training and call.inputs[0].is_floating_point():
            now.differentiated |= torch.is_grad_enabled()
            now.evaluated = few_coordinates(call.inputs[0]) if now.evaluated is None else now.evaluated
        if now is not None and call.training and torch.is_grad_enabled() and call.inputs:
            now.forwards += 1
            now.first = few_coordinates(call.inputs[0]) if now.first is None else now.first

    def on_loss(self, call: LossEvent) -> None:
        """A loss was computed: of how many classes?"""
        if not self._outputs and call.function is functional.cross_entropy and torch.is_grad_enabled():
            given = loss_arguments(call)
            if given is not None and given[0].dim() == 2 and given[1].dim() == 1:
                self._outputs = given[0].shape[1]

    def end(self, error: BaseException | None) -> None:
        self._look_at_begun()
        self._note_steps()
        self._note_evaluation(self._now)
        self._subsets.begin(None, "")

    def _look_at_begun(self) -> None:
        begun, self._begun = self._begun, []
        for loader, where, counted in begun:
            # Of one that began before its first forward was met, nothing is known.
            if counted == self._steps.counted and not isinstance(loader.dataset, IterableDataset):
                self._look_at(loader, where)
                self.sizes |= {_length(loader.dataset)} - {0}

    def _note_steps(self) -> None:
        """Steps since the pass began are of it."""
        steps, self._before_pass = self._steps.total - self._before_pass, self._steps.total
        self._reads[1] += steps
        if steps:
            self._subsets.note_step()
        if self._now is not None:
            self._now.steps += steps

    def _look_at(self, loader: DataLoader[Any], where: str) -> None:
        sampler = loader.sampler
        self._note_steps()
        self._note_evaluation(self._now)
        if self._looks.wanted("classes"):
            self._reads = self._classes.setdefault(_classes_of(loader), [where, 0])
            self._subsets.begin(_chosen_by(loader), where)
        else:
            self._reads = ["", 0]
            self._subsets.begin(None, where)
        if type(sampler) is WeightedRandomSampler and len(sampler.weights) < _length(loader.dataset):
            few, all_of = len(sampler.weights), _length(loader.dataset)
            text = f"a WeightedRandomSampler has {few} weights for a dataset of {all_of} samples: those after the "
            # The sampler takes one weight a sample: whoever wants fewer samples gives the loader fewer.
            text += f"first {few} are never drawn"
            self._add(as_fault(Code.LOSSES, "samples that are never drawn", text, where))
        if type(loader.batch_sampler) is not BatchSampler:
            return
        if not len(loader) and len(loader.sampler):  # type: ignore[arg-type]
            text = f"{len(loader.sampler)} samples in batches of {loader.batch_size}, with drop_last: not one batch"  # type: ignore[arg-type]
            self._add(as_fault(Code.LOSSES, "loader without a batch", text, where))
        if type(sampler) is SequentialSampler and len(loader) > 1:
            self._compare(_Pass(len(loader), where))
            self._key = (weakref.ref(loader), where)
            hash(self._key)  # which a reference keeps: none has a hash once what it refers to is gone

    def _compare(self, new: _Pass) -> None:
        """A new pass ends the one before."""
        before, now, self._before = self._before, self._now, self._now
        self._now = new
        # One step on all batches of a pass is none on the first.
        if now is None or now.steps != 1 or now.first is None or now.forwards >= now.batches:
            return
        same = before is not None and before.batches == now.batches and before.where == now.where
        if same and before is not None and before.first is not None and torch.equal(before.first, now.first):
            self._again[now.where] = self._again.get(now.where, (1, 0))[0] + 1, now.batches

    def _note_evaluation(self, now: _Pass | None) -> None:
        """Another pass begins, or none does any more."""
        if now is None or now.evaluated is None or self._key is None:
            return
        if not (now.differentiated or now.forwards or now.steps):
            # A loop may make a loader for each evaluation.
            self._evaluated = {
                key: passes for key, passes in self._evaluated.items() if len(passes) == PASSES or key[0]() is not None
            }
            passes = self._evaluated.setdefault(self._key, [])
            passes += [now.evaluated] if len(passes) < PASSES else []
            now.evaluated = None

    def _changing(self) -> None:
        """Evaluations of classes that get other inputs in each pass over one loader in its own order."""
        for (_, where), passes in self._evaluated.items():
            changing = all(len(one) == len(passes[0]) and not torch.equal(one, passes[0]) for one in passes[1:])
            if len(passes) == PASSES and changing and self._outputs:
                text = f"a loader in its own order gave another first input in each of {PASSES} evaluations, as of "
                text += "samples that are augmented at random"
                self._add(as_warning(Code.DRIFT, "random inputs of evaluation", text, where))

    def _add(self, finding: Finding) -> None:
        self._findings.setdefault((finding.name, finding.where), finding)

    def findings(self) -> list[Finding]:
        self._changing()
        for where, text in self._subsets.leaks.items():
            self._add(as_warning(Code.DUPLICATES, "split leakage", text, where))
        for where, (count, batches) in self._again.items():
            if count >= CERTAIN:
                text = f"{count} passes over a loader of {batches} batches ended after one step each, all on the same "
                self._add(as_warning(Code.LOSSES, "always the first batch", f"{text}batch", where))
        known = {classes: reads for classes, reads in self._classes.items() if classes is not None}
        trained = frozenset[int]().union(*(classes for classes, (_, steps) in known.items() if steps))
        for classes, (where, steps) in known.items():
            missing = sorted(classes - trained)
            unread = None in self._classes and self._classes[None][1]
            if (
                trained
                and not steps
                and not unread
                and 2 * len(missing) >= len(classes)
                and missing[-1] < self._outputs
            ):
                text = f"classes {listed(missing)} are evaluated, of {self._outputs} that the network tells apart; it "
                text += f"was trained on {listed(sorted(trained))} alone"
                self._add(as_warning(Code.LOSSES, "classes that training never had", text, where))
        return [*self._findings.values()]


def _length(dataset: Any) -> int:
    """Samples of a dataset; 0 if it cannot tell, as one that gives whole batches to a sampler of its own may not."""
    try:
        return len(dataset)
    # Whatever the loop's own class does there, nobody but the checkup has asked for it.
    except Exception:
        return 0


def _source_of(loader: DataLoader[Any]) -> tuple[Any, Tensor | None] | None:
    """The dataset from which a loader gives samples, and their places in it, None for all; None if not known."""
    sampler, dataset, places = loader.sampler, loader.dataset, None
    if type(sampler) is SubsetRandomSampler:
        places = torch.as_tensor(list(sampler.indices))
    elif type(sampler) not in (RandomSampler, SequentialSampler):
        return None
    while type(dataset) is Subset:
        inner = torch.as_tensor(list(dataset.indices))
        places, dataset = inner if places is None else inner[places], dataset.dataset
    return dataset, places


def _chosen_by(loader: DataLoader[Any]) -> _Part | None:
    """The part of a dataset that a loader gives, None if it gives all."""
    source = _source_of(loader)
    if source is None or source[1] is None or not 0 < len(source[1]) <= SAMPLES:
        return None
    try:
        return weakref.ref(source[0]), frozenset(source[1].tolist())
    except TypeError:  # a list, or another class of Python's own
        return None


def _classes_of(loader: DataLoader[Any]) -> frozenset[int] | None:
    """The classes of all samples that a loader gives, None if they are not known."""
    source = _source_of(loader)
    if source is None:
        return None
    dataset, places = source
    held = dataset.tensors[-1] if isinstance(dataset, TensorDataset) else getattr(dataset, "targets", None)
    if not isinstance(held, Tensor | list) or not 0 < len(held) <= SAMPLES:
        return None
    targets = torch.as_tensor(held)
    if targets.dim() != 1 or targets.is_floating_point() or targets.dtype is torch.bool:
        return None
    return frozenset((targets if places is None else targets[places.to(targets.device)]).unique().tolist())
