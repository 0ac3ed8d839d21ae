"""The story that the lab is named for, replayed: the variants of a loop, and the faults that hide behind them.

The team had one loop over the batches of an epoch, each with a step of its own. Here that is the loop over the
micro-batches of a window: with windows of one micro-batch it does what they meant, and with the whole epoch as one
window it is the loop that their lines fell out of. Every fault is an edit of the real source; what is true is measured
outside of it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rislab.checkup.findings import Findings
from rislab.config import Config, choice, integer, same
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice
from rislab.faults.catalogue import find_fault
from rislab.faults.comparison import diagnose_overfit
from rislab.faults.fault import Fault, source_of
from rislab.faults.patching import patched
from rislab.model.curriculum import loss_weights_at
from rislab.model.losses import compute_loss
from rislab.model.network import CovarianceNet
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training import records
from rislab.training.config import TrainConfig
from rislab.training.loop import evaluate, windows
from rislab.training.records import Counters, EpochRecord, Record, Recorded

VALIDATION = 16


@dataclass(frozen=True)
class LoopVariant:
    """A variant of the loop in the story."""

    fault: str  # name in the catalogue, "" for the correct loop
    accumulation_steps: int  # micro-batches in a window, 0 for a whole epoch


LOOP_VARIANTS = {
    "correct loop": LoopVariant("", 1),
    "suspect": LoopVariant("divided on the first batch only", 1),
    "suspect, K = 4": LoopVariant("divided on the first batch only", 4),
    "stage one": LoopVariant("loop tail in a branch never taken", 0),
    "stage two": LoopVariant("backward after the batch loop", 0),
}
# Further faults that a training shows, in the order in which they are found: each hides the next.
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
# The team's print: it looks at the first batch only, from beside backward().
PROBE = Fault(
    name="probe at the first batch",
    story="A print beside backward(), guarded so that it prints once an epoch.",
    module="training.loop",
    before="scaler.scale(weight * loss.total).backward()",
    after="scaler.scale(weight * loss.total).backward(); "
    'indices is window.micro_batches[0] and print(f"[PROBE] {loss.total:.6f}")',
    description="If it prints nothing, its line was never reached with the first batch.",
)


@dataclass(frozen=True)
class StoryConfig(Config):
    """What is replayed; `fault` and `extra_faults` are those that the panel begins with."""

    scenes: int = integer(64, 64, 10**6, "size of the training set")
    batches: int = integer(8, 4, 10**4, "of an epoch, a divisor of scenes")
    epochs: int = same(TrainConfig, "epochs", low=3, high=10**4)
    warmup: int = same(TrainConfig, "warmup", 24, low=1, high=10**6)
    lr: float = same(OverfitConfig, "lr", 2e-3)
    seed: int = same(OverfitConfig, "seed")
    repair_epochs: int = integer(12, 3, 10**4, "of the shorter replays, in which faults are repaired one by one")
    fault: str = choice("correct loop", LOOP_VARIANTS, "variant of the loop")
    extra_faults: tuple[str, ...] = choice(
        REPAIR_ORDER[:1], EXTRA_FAULTS, "further faults in the same package", many=True, empty=True
    )

    def check(self) -> None:
        """Refuse faults that do not go together, and batches that are not all of one size."""
        check_combination(self.fault, self.extra_faults)
        if self.scenes % self.batches:
            raise InputError(f"batches is {self.batches}; allowed: a divisor of scenes, which is {self.scenes}")

    @property
    def short(self) -> StoryConfig:
        """The same with `repair_epochs`."""
        return self.changed(epochs=self.repair_epochs)

    def overfit(self, accumulation_steps: int, curriculum: str = "no-curriculum") -> OverfitConfig:
        """Scenes, network and loop of a replay."""
        return OverfitConfig(
            scenes=self.scenes,
            micro_batch=self.scenes // self.batches,
            accumulation_steps=accumulation_steps,
            epochs=self.epochs,
            lr=self.lr,
            curriculum=curriculum,
            validation=VALIDATION,
            seed=self.seed,
        )

    def variant(self, fault: str) -> OverfitConfig:
        """Scenes, network and loop of a variant of the loop."""
        return self.overfit(LOOP_VARIANTS[fault].accumulation_steps or self.batches)


@dataclass(frozen=True, eq=False)
class Replay(Recorded):
    """A training in a package with faults, and what is true of it.

    Args:
        fault: of LOOP_VARIANTS.
        extra_faults: names of faults.
        records: what the loop reported.
        batch_losses: [epochs, batches], true loss of each micro-batch in its order, at the weights with which the
            epoch began, computed by the correct code.
        fresh_nmse: [epochs + 1], NMSE of the weights on fresh scenes before training and after each epoch, computed by
            the correct code.
        weights: [parameters], at the end.
    """

    fault: str
    extra_faults: tuple[str, ...]
    records: list[Record]
    batch_losses: list[list[float]]
    fresh_nmse: list[float]
    weights: Tensor

    @property
    def validations(self) -> list[float]:
        """The validation score that was reported after each epoch."""
        return [float("nan") if end.validation is None else end.validation for end in self.epoch_records]

    @property
    def first_epoch(self) -> Counters:
        """What ran in the first epoch."""
        return self.epoch_records[0].counters

    @property
    def idle_steps(self) -> int:
        """Steps that were applied and moved no weight."""
        return sum(window.applied and window.update_ratio == 0 for window in self.step_records)

    def log(self) -> list[str]:
        """The epoch lines as the team had them, to six digits, as measured."""
        return [log_line(end) for end in self.epoch_records]

    def same_as(self, other: Replay) -> bool:
        """Whether all records but their times, and all bits of the final weights, are the same."""
        pairs = zip(self.records, other.records, strict=False)
        alike = len(self.records) == len(other.records) and all(records.equal_but_time(*pair) for pair in pairs)
        return alike and torch.equal(self.weights, other.weights)

    def row(self) -> str:
        """One line of a table under TABLE_HEADER."""
        end, scores = self.epoch_records[-1], self.validations
        counters = end.counters
        return (
            f"{end.train:>9.6f} {scores[0]:>9.6f} {scores[-1]:>9.6f} {len(set(scores)):>4} "
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
    """Train in a package with faults, and measure outside of it what is true.

    Args:
        config: see StoryConfig.
        fault: of LOOP_VARIANTS.
        extra_faults: names of further faults in the catalogue.
        curriculum: "three-phase" for faults in the further terms of the loss, which the NMSE alone never calls.
        accumulation_steps: micro-batches in a window; None takes those of the variant.

    Returns:
        The records of the loop, and beside them what is true of each epoch.

    Raises:
        InputError: for an unknown name, or edits that do not go together.
    """
    chosen = faults_of(fault, extra_faults)
    check_combination(fault, extra_faults)
    size = accumulation_steps or LOOP_VARIANTS[fault].accumulation_steps or config.batches
    overfit = config.overfit(size, curriculum)
    with patched(*chosen) as package:
        own = package.sanity.OverfitConfig(**vars(overfit))
        model, training = own.model(), own.training(warmup=config.warmup)
        stream = package.training.loop.fit(model, own.data(), training, validation=own.validation_data())
        outside = _CorrectCode(overfit, overfit.training(warmup=config.warmup))
        outside.measure(model, 1)
        reported: list[Record] = []
        for record in stream:
            reported.append(records.from_dict(package.training.records.to_dict(record)))
            if isinstance(reported[-1], EpochRecord):
                outside.measure(model, reported[-1].epoch + 1)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return Replay(fault, tuple(extra_faults), reported, outside.batch_losses[:-1], outside.fresh_nmse, weights)


class _CorrectCode:
    """Measures the weights of a package with the correct code."""

    def __init__(self, config: OverfitConfig, training: TrainConfig) -> None:
        self._model: CovarianceNet = config.model()
        self._data, self._training = config.data(), training
        self._fresh: SceneBatch | None = config.validation_data()
        self.batch_losses: list[list[float]] = []
        self.fresh_nmse: list[float] = []

    def measure(self, model: Any, epoch: int) -> None:
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
        self.fresh_nmse.append(evaluate(self._model, self._fresh or self._data).nmse)


def diagnose_replay(config: StoryConfig, fault: str) -> Findings:
    """What the checkup says of one of LOOP_VARIANTS; only the batches meant for a step are declared to it."""
    return diagnose_overfit(config.variant(fault), faults_of(fault), warmup=config.warmup)


def run_with_print(config: StoryConfig, fault: str) -> list[str]:
    """What the team's print says over all epochs of one of LOOP_VARIANTS, the batches of an epoch in one window."""
    printed = io.StringIO()
    with patched(*faults_of(fault), PROBE) as package, contextlib.redirect_stdout(printed):
        own = package.sanity.OverfitConfig(**vars(config.overfit(config.batches)))
        for _ in package.training.loop.fit(own.model(), own.data(), own.training(warmup=config.warmup)):
            pass
    return printed.getvalue().splitlines()


def faults_of(fault: str, extra_faults: Sequence[str] = ()) -> list[Fault]:
    """The faults of a combination in the order in which their edits are made; raises InputError for unknown names."""
    check_choice("fault", fault, LOOP_VARIANTS)
    return [find_fault(name) for name in (LOOP_VARIANTS[fault].fault, *extra_faults) if name]


def check_combination(fault: str, extra_faults: Sequence[str]) -> None:
    """Raise InputError if a name is unknown or comes twice, or if the edits do not go together."""
    repeated = [name for place, name in enumerate(extra_faults) if name in extra_faults[:place]]
    if repeated:
        raise InputError(f"extra_faults hold {repeated[0]!r} twice; allowed: each once")
    compatible = compatible_faults(fault, extra_faults)
    refused = [name for name in extra_faults if name not in compatible]
    if refused:
        raise InputError(
            f"extra_faults hold {refused[0]!r}, but {fault} or another of them changes the line that it edits; "
            f"allowed: those that go together, such as {', '.join(compatible) or 'none'}"
        )


def compatible_faults(fault: str, extra_faults: Sequence[str]) -> list[str]:
    """Those of the extra faults, in their order, whose edits go together with the fault and with those before them."""
    edited: dict[str, str] = {}
    names = []
    for one in faults_of(fault, extra_faults):
        source = edited.get(one.module) or source_of(one.module)
        if source.count(one.before) == 1:
            edited[one.module] = one.edited(source)
            names.append(one.name)
    return [name for name in extra_faults if name in names]


@dataclass(frozen=True, eq=False)
class Fix:
    """One more thing repaired."""

    fixed: str  # what was repaired
    remaining: tuple[str, ...]  # extra faults that are left
    replay: Replay  # what the log says then

    def row(self) -> str:
        """One line of a table under TABLE_HEADER."""
        return f"{self.fixed:<40} {self.replay.row()}"


def repairs(config: StoryConfig, order: Sequence[str] = REPAIR_ORDER) -> Iterator[Fix]:
    """The whole story repaired one thing after another, extra faults in `order`, each time from the first weights."""
    stages = [("nothing", "stage one"), ("the branch: stage two", "stage two"), ("the loop", "correct loop")]
    rows = [(fixed, fault, tuple(compatible_faults(fault, order))) for fixed, fault in stages]
    rows += [(name, "correct loop", tuple(order[place:])) for place, name in enumerate(order, start=1)]
    for fixed, fault, remaining in rows:
        yield Fix(fixed, remaining, replay(config, fault, remaining, curriculum="three-phase"))
