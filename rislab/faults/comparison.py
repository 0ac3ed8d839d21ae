"""A fault beside the correct loop, both trained on the same scenes from the same weights."""

from __future__ import annotations

import math
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import Watch, watch
from rislab.config import Config, same, text
from rislab.faults.catalogue import find_fault
from rislab.faults.fault import Fault
from rislab.faults.gradient_attribution import GradientAttribution
from rislab.faults.patching import patched
from rislab.faults.run_config import EPOCHS, RATES, FaultRunConfig
from rislab.faults.symptoms import OF_A_TRAINING, examine, prepare_training, symptom_reader
from rislab.sanity.checks import CheckResult
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.config import TrainConfig

VALIDATION = 16
NOISE = 1e-6  # of float32, in quantities that are 0 or 1 on the correct loop
# What the checks of the ladder are run with: small, and enough for the correct package to pass all of them.
LADDER: dict[str, Any] = {"scenes": 64, "micro_batch": 12, "accumulation_steps": 4, "epochs": 60}
# Warnings are caught for the whole process, so that one thread at a time can catch its own.
_WARNINGS = threading.RLock()


@dataclass(frozen=True)
class ComparisonConfig(Config):
    """Which faults are compared with the correct loop."""

    fault: str = text("never divided", "name of the fault to look at")
    epochs: int = same(FaultRunConfig, "epochs", high=50)
    compared: Sequence[str] = text((), "names of further faults whose symptoms are measured", many=True, empty=True)
    quiz_seed: int = same(TrainConfig, "seed", 1, help="of the questions of the quiz")

    def check(self) -> None:
        """Refuse names that the catalogue does not hold."""
        for name in (self.fault, *self.compared):
            find_fault(name)


@dataclass(frozen=True)
class QuantityComparison:
    """A quantity, measured on the correct package and on the faulty one; `where` names a setting of its own."""

    quantity: str
    correct: float
    faulty: float
    where: str = field(default="", kw_only=True)

    def line(self) -> str:
        """One line for a terminal."""
        return f"{self.quantity:<50} {self.correct:>12.6g} {self.faulty:>12.6g}  {self.where}".rstrip()

    def differs(self, least: float) -> bool:
        """Whether they differ by more than NOISE and the share `least` of the larger one; NaN differs from a number."""
        if math.isnan(self.correct) or math.isnan(self.faulty):
            return math.isnan(self.correct) != math.isnan(self.faulty)
        return abs(self.faulty - self.correct) > max(NOISE, least * max(abs(self.correct), abs(self.faulty)))


@dataclass(frozen=True, eq=False)
class OptimiserRun:
    """A fault and the correct loop, trained with one optimiser under the same setting.

    Args:
        fault: the fault.
        setting: of examine(), the same for both.
        correct: what was measured on the correct loop.
        faulty: what was measured on the loop with the fault.
        quantities: all quantities of a training, of both.
        warnings: what Python warned of while the faulty loop trained, each text once.
    """

    fault: Fault
    setting: dict[str, Any]
    correct: GradientAttribution
    faulty: GradientAttribution
    quantities: tuple[QuantityComparison, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def optimiser(self) -> str:
        """ "adam" or "sgd"."""
        return str(self.setting["optimiser"])

    def differences(self, least: float = 1e-3) -> list[QuantityComparison]:
        """The quantities that differ by more than the share `least` of the larger one, or of which one is NaN."""
        return [quantity for quantity in self.quantities if quantity.differs(least)]


@dataclass(frozen=True)
class CheckPair:
    """A check on the correct package and on the faulty one; `suite` is "conventions" or "ladder"."""

    suite: str
    correct: CheckResult
    faulty: CheckResult

    @property
    def name(self) -> str:
        """Name of the check."""
        return self.correct.name


@dataclass(frozen=True, eq=False)
class FaultReport:
    """All that is measured of a fault.

    Args:
        fault: the fault.
        runs: by optimiser; empty for a fault that no training shows.
        checks: compare_checks(), for a fault that no training shows.
        symptoms: compare_symptoms(), for a fault that no training shows.
    """

    fault: Fault
    runs: dict[str, OptimiserRun] = field(default_factory=dict)
    checks: list[CheckPair] = field(default_factory=list)
    symptoms: list[QuantityComparison] = field(default_factory=list)


def shows_in_training(fault: Fault) -> bool:
    """Whether a training looks different with the fault: whether one of its symptoms is measured on a training."""
    return any(symptom.quantity in OF_A_TRAINING for symptom in fault.symptoms)


def setting_of(fault: Fault, *, optimiser: str | None = None, epochs: int = EPOCHS) -> dict[str, Any]:
    """The setting in which the fault's symptoms show, as examine() takes it.

    Args:
        fault: of the catalogue.
        optimiser: "adam" or "sgd"; None takes the one that the fault's symptoms name, else Adam.
        epochs: in [1, 10⁴], of 84 scenes, in three windows each.

    Raises:
        InputError: for an unknown optimiser, or fewer than one epoch.
    """
    settings = (one.setting for one in fault.symptoms if one.setting and one.quantity in OF_A_TRAINING)
    own = next(settings, {})
    chosen = str(own.get("optimiser", "adam")) if optimiser is None else optimiser
    FaultRunConfig(chosen, epochs)
    rates = {"lr_head": RATES[chosen], "lr_backbone": RATES[chosen] / 10}
    return {**rates, "validation": VALIDATION, **own, "optimiser": chosen, "epochs": epochs}


class ComparisonCache:
    """Compares faults with the correct loop, and keeps what the correct loop did under each setting."""

    def __init__(self) -> None:
        self._correct: dict[str, GradientAttribution] = {}

    def compare_runs(self, fault: Fault, *, optimiser: str | None = None, epochs: int = EPOCHS) -> OptimiserRun:
        """See compare_runs()."""
        setting = setting_of(fault, optimiser=optimiser, epochs=epochs)
        name = repr(sorted(setting.items()))
        if name not in self._correct:
            self._correct[name], _ = attribute_run(None, setting)
        correct = self._correct[name]
        faulty, messages = attribute_run(fault, setting)
        return OptimiserRun(fault, setting, correct, faulty, compare_quantities(correct, faulty), messages)

    def reports(
        self, fault: Fault, optimisers: Sequence[str] = tuple(RATES), *, epochs: int = EPOCHS
    ) -> Iterator[FaultReport]:
        """The fault with one optimiser after the other, each time with all that is known so far."""
        if not shows_in_training(fault):
            yield FaultReport(fault, checks=compare_checks(fault), symptoms=compare_symptoms(fault))
            return
        runs: dict[str, OptimiserRun] = {}
        for optimiser in optimisers:
            runs = {**runs, optimiser: self.compare_runs(fault, optimiser=optimiser, epochs=epochs)}
            yield FaultReport(fault, runs)


def compare_runs(fault: Fault, *, optimiser: str | None = None, epochs: int = EPOCHS) -> OptimiserRun:
    """Train the faulty and the correct loop, in the setting in which the fault's symptoms show.

    Args:
        fault: see setting_of().
        optimiser: see setting_of().
        epochs: see setting_of().

    Returns:
        Both runs, in one setting.

    Raises:
        InputError: for an unknown optimiser, or fewer than one epoch.
    """
    return ComparisonCache().compare_runs(fault, optimiser=optimiser, epochs=epochs)


def fault_report(fault: Fault, *, epochs: int = EPOCHS) -> FaultReport:
    """The fault with each optimiser; if no training shows it, symptoms, conventions and checks of the ladder.

    Args:
        fault: of the catalogue.
        epochs: see setting_of().
    """
    return list(ComparisonCache().reports(fault, epochs=epochs))[-1]


# ------------------------------------------------------------------------------------------- what is measured on both


@contextmanager
def _package(*faults: Fault) -> Iterator[tuple[types.ModuleType, list[warnings.WarningMessage]]]:
    """A patched package in one thread, and what Python warns of in it."""
    with _WARNINGS, warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        with patched(*faults) as package:
            yield package, messages


def attribute_run(fault: Fault | None, setting: Mapping[str, Any]) -> tuple[GradientAttribution, tuple[str, ...]]:
    """Train the faulty loop, or the correct one if None: what arrived at its optimiser, and what Python warned of."""
    with _package(*([fault] if fault else [])) as (package, messages):
        attribution = examine(package, **setting)
    # First sentences: the rest is advice on the name of a call.
    return attribution, tuple(dict.fromkeys(str(warning.message).split(". ")[0] for warning in messages))


def compare_quantities(correct: GradientAttribution, faulty: GradientAttribution) -> tuple[QuantityComparison, ...]:
    """All quantities of a training, of both; NaN where a training has nothing to measure one on."""
    with _WARNINGS, warnings.catch_warnings(), np.errstate(all="ignore"):
        # numpy warns of what is NaN: no step, no finite loss, or a single epoch.
        warnings.simplefilter("ignore")
        return tuple(
            QuantityComparison(name, _value(measure, correct), _value(measure, faulty))
            for name, measure in OF_A_TRAINING.items()
        )


def _value(measure: Callable[[GradientAttribution], float], attribution: GradientAttribution) -> float:
    try:
        return measure(attribution)
    except (ZeroDivisionError, KeyError):  # a ratio to what was reported as 0, or the rate of a group that is not there
        return math.nan


def compare_symptoms(fault: Fault, count: int | None = None) -> list[QuantityComparison]:
    """The symptoms of a fault, measured on the correct package and on the faulty one in the setting of each.

    Args:
        fault: the fault.
        count: of symptoms, the first; None measures all.
    """
    symptoms, columns = fault.symptoms[:count], []
    for faults in ((), (fault,)):  # of the correct and of the faulty package
        with _package(*faults) as (package, _):
            columns.append([*map(symptom_reader(package), symptoms)])
    return [
        QuantityComparison(
            symptom.quantity, *pair, where=", ".join(f"{name} {value}" for name, value in symptom.setting.items())
        )
        for symptom, *pair in zip(symptoms, *columns, strict=True)
    ]


def compare_checks(fault: Fault) -> list[CheckPair]:
    """The conventions, and the fault's own checks of the ladder, on the correct package and on the faulty one."""
    columns = []
    for faults in ((), (fault,)):  # of the correct and of the faulty package
        with _package(*faults) as (package, _):
            results = [("conventions", check) for check in package.sanity.conventions.check_conventions().checks]
            if fault.checks:
                config = package.sanity.OverfitConfig(**LADDER)
                results += [
                    ("ladder", check) for check in package.sanity.overfit_ladder.ladder(config, only=fault.checks)
                ]
            columns.append(results)
    return [
        CheckPair(suite, CheckResult(**vars(correct)), CheckResult(**vars(faulty)))
        for (suite, correct), (_, faulty) in zip(*columns, strict=True)
    ]


def unexpected_symptoms(fault: Fault, measured: Sequence[QuantityComparison]) -> list[str]:
    """Where compare_symptoms() of a fault is not what the catalogue says; empty if the fault shows as it should."""
    messages = []
    for symptom, one in zip(fault.symptoms, measured, strict=True):
        limits = f"[{symptom.low:g}, {symptom.high:g}]"
        if not symptom.shown_by(one.faulty):
            messages.append(f"{fault.name}: {one.quantity} is {one.faulty:g}, outside {limits}")
        if symptom.shown_by(one.correct):
            messages.append(f"correct loop: {one.quantity} is {one.correct:g}, a symptom of {fault.name!r}")
    return messages


def event_counts(attribution: GradientAttribution) -> dict[str, str]:
    """What a training counted and reported besides its curves, in words; the last two are measured from outside."""
    end, steps = attribution.epoch_records[-1], attribution.step_records
    coupling = attribution.coupling[np.isfinite(attribution.coupling)]
    first = [window for window in steps if window.epoch == 1]
    scored = {"validation, last epoch": end.validation, "averaged weights, last epoch": end.ema}
    return {
        "forwards in training mode": str(end.counters.forwards),
        "backwards": str(end.counters.backwards),
        "steps applied / skipped": f"{end.counters.steps_applied} / {end.counters.steps_skipped}",
        "scheduler ticks": str(end.counters.scheduler_ticks),
        "windows / scenes in epoch 1": f"{len(first)} / {sum(window.samples for window in first)}",
        "scenes in the set": str(attribution.scenes),
        "loss scale, first / last": f"{steps[0].loss_scale:g} / {steps[-1].loss_scale:g}",
        **{name: f"{value:.6g}" for name, value in scored.items() if value is not None},
        "tensors that never moved": f"{sum(attribution.unchanged)} of {len(attribution.unchanged)}",
        "micro-batches against one batch": f"relative error {coupling.max():.2g}" if len(coupling) else "no number",
    }


# ---------------------------------------------------------------------------------------------- what the checkup says


def diagnose_fault(fault: Fault | None, setting: Mapping[str, Any]) -> Findings:
    """What the checkup says of a training of the faulty loop, or of the correct one if None; see prepare_training()."""
    with _package(*([fault] if fault else [])) as (package, _):
        config, data, model, validation = prepare_training(package, **setting)
        return watch_training(package, model, data, config, validation)


def diagnose_overfit(config: OverfitConfig, faults: Sequence[Fault] = (), **changes: Any) -> Findings:
    """What the checkup says of the training that a configuration of the overfit ladder describes.

    Args:
        config: of the ladder.
        faults: edits of the loop that is trained.
        changes: fields of TrainConfig that differ from those of the ladder.
    """
    with _package(*faults) as (package, _):
        own = package.sanity.OverfitConfig(**vars(config))
        return watch_training(package, own.model(), own.data(), own.training(**changes), own.validation_data())


def watch_training(package: types.ModuleType, model: nn.Module, data: Any, config: Any, validation: Any) -> Findings:
    """What the checkup says of a training with the loop of a package, on objects of that package."""
    state = package.training.state.TrainState.begin(model, len(data), config)
    with watched_loop(package, state, epochs=config.epochs) as observer:
        records = [*package.training.loop.fit(model, data, config, validation=validation, resume=state)]
    return observer.findings(reported=[record.train for record in records if hasattr(record, "train")])


def watched_loop(package: types.ModuleType, state: Any, *, epochs: int | None = None) -> Watch:
    """A watch of the loop of a patched package, which calls the loss through it from now on.

    `epochs` is how many the loop is to make; None if it may end earlier.
    """
    config = state.config
    observer = watch(
        state.model,
        state.optimizer,
        loss=package.training.loop.compute_loss,
        select_loss=lambda loss: loss.total,
        accumulation_steps=config.accumulation_steps,
        scaler=state.scaler,
        scheduler=state.scheduler,
        clip_norm=config.clip_norm,
        epochs=epochs,
        scheduler_interval="step",
    )
    package.training.loop.compute_loss = observer.loss
    return observer
