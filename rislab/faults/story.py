"""The story that the lab is named for, replayed: suspect, fault and extra_faults, and the clues that tell them apart.

The team had one loop over the batches of an epoch, each with a step of its own. Here that is the loop over the
micro-batches of a window: with windows of one micro-batch it does what they meant, and with the whole epoch as one
window it is the loop that their lines fell out of. Every fault is an edit of the real source; what is true is measured
outside of it.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rislab.checkup.findings import Findings
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice, check_number
from rislab.faults import comparison
from rislab.faults.catalogue import find_fault
from rislab.faults.comparison import QuantityComparison
from rislab.faults.fault import Fault, source_of
from rislab.faults.patching import patched
from rislab.faults.symptoms import read_quantity
from rislab.model.losses import compute_loss, loss_weights_at
from rislab.model.network import CovarianceNet
from rislab.sanity.overfit import OverfitConfig
from rislab.training import records
from rislab.training.config import TrainConfig
from rislab.training.loop import evaluate, windows
from rislab.training.records import Counters, EpochRecord, Record, epoch_records, step_records

VALIDATION = 16
CURRICULA = ("no-curriculum", "three-phase")


@dataclass(frozen=True)
class LoopVariant:
    """A suspect or a fault, and the windows that it works in.

    Args:
        fault: name in the catalogue, "" for the correct loop. steps: micro-batches in a window, 0 for a whole epoch.
    """

    fault: str
    accumulation_steps: int


LOOP_VARIANTS = {
    "correct loop": LoopVariant("", 1),
    "suspect": LoopVariant("divided on the first batch only", 1),
    "suspect, K = 4": LoopVariant("divided on the first batch only", 4),
    "stage one": LoopVariant("loop tail in a branch never taken", 0),
    "stage two": LoopVariant("loop tail dedented", 0),
}
# Those that a training shows, in the order in which they are found: each hides the next.
REPAIR_ORDER = (
    "singular vectors differentiated",
    "step gate too strict",
    "learning rate 0 at the first step",
    "validation of the averaged weights only",
    "exception swallowed into 0",
    "loaded on one side",
    "split leakage",
)
EXTRA_FAULTS = (
    *REPAIR_ORDER,
    "overflow looked up under a wrong key",
    "sources supervised by slot",
    "transposed for adjoint in MUSIC",
)
# The team's probe: it looks at the first batch only, from beside backward().
PROBE = Fault(
    name="probe at the first batch",
    story="A print beside backward(), guarded so that it speaks once an epoch.",
    module="training.loop",
    before="scaler.scale(weight * loss.total).backward()",
    after="scaler.scale(weight * loss.total).backward(); "
    'indices is window.micro_batches[0] and print(f"[PROBE] {loss.total:.6f}")',
    description="A probe that is silent says that its line was never reached with the first batch in hand.",
)


@dataclass(frozen=True)
class StoryConfig:
    """What is replayed.

    Args:
        scenes: size of the training set, ≥ 64. batches: of an epoch, ≥ 4, a divisor of scenes.
        epochs: ≥ 3. warmup: optimiser steps of linear warm-up, ≥ 1. lr: peak learning rate of the head.
        seed: of scenes, weights and order.
        repair_epochs: of the shorter replays in which extra_faults are put right one by one, ≥ 3.
        fault, extra_faults: what the panel begins with, of CULPRITS and of ACCOMPLICES.
    """

    scenes: int = 64
    batches: int = 8
    epochs: int = 30
    warmup: int = 24
    lr: float = 2e-3
    seed: int = 0
    repair_epochs: int = 12
    fault: str = "correct loop"
    extra_faults: tuple[str, ...] = ("singular vectors differentiated",)

    def __post_init__(self) -> None:
        if not isinstance(self.extra_faults, list | tuple):
            raise InputError(f"extra_faults is {self.extra_faults!r}; allowed: a list of {', '.join(EXTRA_FAULTS)}")
        object.__setattr__(self, "extra_faults", tuple(self.extra_faults))
        check_number("batches", self.batches, 4, 10**4, integer=True)
        check_number("epochs", self.epochs, 3, 10**4, integer=True)
        check_number("repair_epochs", self.repair_epochs, 3, 10**4, integer=True)
        for name in self.extra_faults:
            check_choice("extra_faults", name, EXTRA_FAULTS)
        check_combination(self.fault, self.extra_faults)
        check_number("warmup", self.warmup, 1, 10**6, integer=True)
        self.overfit(1)
        if self.scenes % self.batches:
            raise InputError(f"batches is {self.batches}; allowed: a divisor of scenes, which is {self.scenes}")

    @property
    def short(self) -> StoryConfig:
        """The same with `repair_epochs`."""
        return dataclasses.replace(self, epochs=self.repair_epochs)

    def overfit(self, accumulation_steps: int, curriculum: str = "no-curriculum") -> OverfitConfig:
        """Scenes, network and loop of a replay."""
        check_choice("curriculum", curriculum, CURRICULA)
        check_number("scenes", self.scenes, 64, 10**6, integer=True)
        return OverfitConfig(
            scenes=self.scenes,
            micro_batch=max(1, self.scenes // self.batches),
            accumulation_steps=accumulation_steps,
            epochs=self.epochs,
            lr=self.lr,
            curriculum=curriculum,
            validation=VALIDATION,
            seed=self.seed,
        )


@dataclass(frozen=True, eq=False)
class Replay:
    """A training in a package with faults, and what is true of it.

    Args:
        fault: of CULPRITS. extra_faults: names of faults. records: what the loop told.
        batch_losses: [epochs, batches], true loss of each micro-batch in its order, at the weights with which the
            epoch began, formed by the correct code.
        fresh_nmse: [epochs + 1], NMSE of the weights on fresh scenes before training and after each epoch, by the correct
            code.
        weights: [parameters], at the end.
    """

    fault: str
    extra_faults: tuple[str, ...]
    records: list[Record]
    batch_losses: list[list[float]]
    fresh_nmse: list[float]
    weights: Tensor

    @property
    def epoch_records(self) -> list[EpochRecord]:
        """The records of the epochs."""
        return epoch_records(self.records)

    @property
    def validations(self) -> list[float]:
        """The validation score that was told after each epoch."""
        return [float("nan") if end.validation is None else end.validation for end in self.epoch_records]

    @property
    def first_epoch(self) -> Counters:
        """What ran in the first epoch."""
        return self.epoch_records[0].counters

    @property
    def idle_steps(self) -> int:
        """Steps that were applied and moved no weight."""
        return sum(window.applied and window.update_ratio == 0 for window in step_records(self.records))

    @property
    def zero_terms(self) -> int:
        """Terms of the loss that were exactly 0 in every window."""
        told = step_records(self.records)
        names = {name for window in told for name in window.terms}
        return sum(all(w.terms[name].value == 0 for w in told if name in w.terms) for name in names)

    def log(self) -> list[str]:
        """The epoch lines as the team had them, to six digits, as measured."""
        return [log_line(end) for end in self.epoch_records]

    def same_as(self, other: Replay) -> bool:
        """Whether all records but their times, and all bits of the final weights, are the same."""
        pairs = zip(self.records, other.records, strict=False)
        alike = len(self.records) == len(other.records) and all(records.equal_but_time(*pair) for pair in pairs)
        return alike and torch.equal(self.weights, other.weights)

    def row(self) -> str:
        """One line of a table under ROW."""
        counters, told = self.epoch_records[-1].counters, self.validations
        return (
            f"{self.epoch_records[-1].train:>9.6f} {told[0]:>9.6f} {told[-1]:>9.6f} {len(set(told)):>4} "
            f"{counters.backwards:>9} {counters.steps_applied:>5} {counters.steps_skipped:>7} {self.idle_steps:>4} "
            f"{self.zero_terms:>7} {self.fresh_nmse[-1]:>10.6f}"
        )


TABLE_HEADER = "    train   val (1) val (end) vals backwards steps skipped idle 0-terms true NMSE"


def log_line(end: EpochRecord) -> str:
    """The team's epoch line to six digits; the validation reads nan where there is none."""
    score = float("nan") if end.validation is None else end.validation
    return f"Epoch {end.epoch:03d}/{end.epochs:03d} [{end.phase}] train {end.train:.6f}  val {score:.6f}"


def replay(
    config: StoryConfig,
    fault: str = "correct loop",
    extra_faults: Sequence[str] = (),
    *,
    curriculum: str = "no-curriculum",
    accumulation_steps: int | None = None,
) -> Replay:
    """Train in a package with a fault and extra_faults, and measure outside of it what is true.

    Args:
        config: see StoryConfig. fault: of CULPRITS. extra_faults: names of faults in the catalogue.
        curriculum: "three-phase" for extra_faults in the further terms of the loss, which the NMSE alone never calls.
        accumulation_steps: micro-batches in a window; the fault's own number if None.

    Raises:
        InputError: for an unknown name, or edits that do not go extra_faults.
    """
    chosen = faults_of(fault, extra_faults)
    check_combination(fault, extra_faults)
    size = (
        (LOOP_VARIANTS[fault].accumulation_steps or config.batches)
        if accumulation_steps is None
        else accumulation_steps
    )
    overfit = config.overfit(size, curriculum)
    with patched(*chosen) as package:
        twin = package.sanity.overfit.OverfitConfig(**vars(overfit))
        model, training = twin.model(), twin.training(warmup=config.warmup)
        stream = package.training.loop.fit(model, twin.data(), training, validation=twin.validation_data())
        outside = _Outside(overfit, overfit.training(warmup=config.warmup))
        outside.look(model, 1)
        told: list[Record] = []
        for record in stream:
            told.append(records.from_dict(package.training.records.to_dict(record)))
            if isinstance(told[-1], EpochRecord):
                outside.look(model, told[-1].epoch + 1)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return Replay(fault, tuple(extra_faults), told, outside.batch_losses[:-1], outside.fresh_nmse, weights)


def diagnose_replay(config: StoryConfig, fault: str) -> Findings:
    """What the checkup finds in a replay; it knows how many batches were meant for each step, and nothing else.

    Args:
        config: see StoryConfig. fault: of CULPRITS.
    """
    size = LOOP_VARIANTS[fault].accumulation_steps or config.batches
    with patched(*faults_of(fault, ())) as package:
        twin = package.sanity.overfit.OverfitConfig(**vars(config.overfit(size)))
        training = twin.training(warmup=config.warmup)
        return comparison.watch_training(package, twin.model(), twin.data(), training, twin.validation_data())


def run_with_print(config: StoryConfig, fault: str) -> list[str]:
    """What the team's probe says over all epochs, the batches of an epoch in one window.

    Args:
        config: see StoryConfig. fault: of CULPRITS.
    """
    said = io.StringIO()
    with patched(*faults_of(fault, ()), PROBE) as package, contextlib.redirect_stdout(said):
        twin = package.sanity.overfit.OverfitConfig(**vars(config.overfit(config.batches)))
        for _ in package.training.loop.fit(twin.model(), twin.data(), twin.training(warmup=config.warmup)):
            pass
    return said.getvalue().splitlines()


def faults_of(fault: str, extra_faults: Sequence[str]) -> list[Fault]:
    """The faults of a combination in the order in which their edits are made; raises InputError for unknown names."""
    check_choice("fault", fault, LOOP_VARIANTS)
    names = [name for name in (LOOP_VARIANTS[fault].fault, *extra_faults) if name]
    return [find_fault(name) for name in names]


def check_combination(fault: str, extra_faults: Sequence[str]) -> None:
    """Raise InputError if a name is unknown or comes twice, or if the edits do not go extra_faults."""
    twice = [name for place, name in enumerate(extra_faults) if name in extra_faults[:place]]
    if twice:
        raise InputError(f"extra_faults hold {twice[0]!r} twice; allowed: each once")
    kept = compatible_faults(fault, extra_faults)
    lost = [name for name in extra_faults if name not in kept]
    if lost:
        others = ", ".join(kept) or "none"
        raise InputError(
            f"extra_faults hold {lost[0]!r}, but {fault} or another of them changes the line that it edits; "
            f"allowed: those that go extra_faults, such as {others}"
        )


class _Outside:
    """Looks at the weights of a package with the correct code."""

    def __init__(self, config: OverfitConfig, training: TrainConfig) -> None:
        self._model: CovarianceNet = config.model()
        self._data, self._training = config.data(), training
        self._scenes: SceneBatch | None = config.validation_data()
        self.batch_losses: list[list[float]] = []
        self.fresh_nmse: list[float] = []

    def look(self, model: Any, epoch: int) -> None:
        """Note the losses of the micro-batches of an epoch that begins, and the score on fresh scenes."""
        self._model.load_state_dict(model.state_dict())
        phase = loss_weights_at(self._training.curriculum, min(epoch, self._training.epochs), self._training.epochs)
        losses = []
        with torch.no_grad():
            for window in windows(len(self._data), self._training, epoch):
                for indices in window.micro_batches:
                    batch = self._data[indices]
                    predicted = self._model(batch.snapshots, batch.codes, batch.channel)
                    losses.append(float(compute_loss(predicted, batch, phase).total))
        self.batch_losses.append(losses)
        self.fresh_nmse.append(evaluate(self._model, self._scenes or self._data).nmse)


def compatible_faults(fault: str, extra_faults: Sequence[str]) -> list[str]:
    """Those of the extra_faults, in their order, whose edits go extra_faults with the fault and with those before them."""
    edited: dict[str, str] = {}
    kept = []
    for one in faults_of(fault, extra_faults):
        source = edited.get(one.module) or source_of(one.module)
        if source.count(one.before) == 1:
            edited[one.module] = one.edited(source)
            kept.append(one.name)
    return [name for name in extra_faults if name in kept]


@dataclass(frozen=True, eq=False)
class Fix:
    """One more thing put right.

    Args:
        done: what was put right. left: extra_faults that remain. replay: what the log says then.
    """

    fixed: str
    remaining: tuple[str, ...]
    replay: Replay

    def row(self) -> str:
        """One line of a table under ROW."""
        return f"{self.fixed:<40} {self.replay.row()}"


def repairs(config: StoryConfig, hiding: Sequence[str] = REPAIR_ORDER) -> Iterator[Fix]:
    """The whole story put right one thing after another, each time replayed from the first weights.

    Args:
        config: see StoryConfig. hiding: extra_faults in the order in which they are put right.
    """
    for done, fault in (
        ("nothing", "stage one"),
        ("the branch: stage two", "stage two"),
        ("the loop", "correct loop"),
    ):
        left = tuple(compatible_faults(fault, hiding))
        yield Fix(done, left, replay(config, fault, left, curriculum="three-phase"))
    for place, name in enumerate(hiding, start=1):
        left = tuple(hiding[place:])
        yield Fix(name, left, replay(config, "correct loop", left, curriculum="three-phase"))


def first_symptom(name: str) -> QuantityComparison:
    """The first sign of a fault, read off the correct package and off the broken one."""
    sign = find_fault(name).symptoms[0]
    values = []
    for packages in ((), (find_fault(name),)):
        with patched(*packages) as package:
            values.append(read_quantity(sign.quantity, package, **sign.setting))
    return QuantityComparison(sign.quantity, *values)


@dataclass(frozen=True)
class StatementPlace:
    """Where a statement of the loop stands.

    Args:
        what: the statement. line, column: in the source, the column from 0. inside: whether it belongs to the loop
            over the batches. branch: the innermost condition that it hangs under, within that loop or beside it.
    """

    what: str
    line: int
    column: int
    inside: bool
    branch: str

    def row(self) -> str:
        """One line of a table."""
        inside = "yes" if self.inside else "no"
        return f"  {self.what:<14} {self.column:>6} {inside:>11}   {self.branch}".rstrip()


STATEMENT_HEADER = "  statement      column in the loop?  under"
STATEMENTS = ("compute_loss", "backward", "meter.add", "scaler.step", "scheduler.step")


def statement_columns(source: str) -> list[StatementPlace]:
    """Columns of the statements of the training loop, and what the grammar, not the eye, says that they belong to.

    Args:
        source: of the module training, edited or not.
    """
    tree = ast.parse(source)
    fit = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "fit")
    loop = next(
        node for node in ast.walk(fit) if isinstance(node, ast.For) and _text(node.iter).endswith("micro_batches")
    )
    places = [StatementPlace("for", loop.lineno, loop.col_offset, False, "")]
    for what in STATEMENTS:
        node, above = next(_calls(fit, what, []))
        inner = above[above.index(loop) :] if loop in above else above
        tests = [_text(one.test) for one in inner if isinstance(one, ast.If)]
        places.append(StatementPlace(what, node.lineno, node.col_offset, loop in above, tests[-1] if tests else ""))
    return places


def _calls(node: ast.AST, what: str, above: list[ast.AST]) -> Iterator[tuple[ast.stmt, list[ast.AST]]]:
    """Simple statements that call something of this name, with all that they stand in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr | ast.Assign) and any(
            isinstance(part, ast.Call) and _text(part.func).endswith(what) for part in ast.walk(child)
        ):
            yield child, above
        yield from _calls(child, what, [*above, child])


def _text(node: ast.AST) -> str:
    return ast.unparse(node)
