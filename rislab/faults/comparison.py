"""The clinic: a fault beside the correct loop, trained on the same scenes from the same weights."""

from __future__ import annotations

import difflib
import html
import math
import re
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from rislab.checkup.loop_watch import Findings, watch
from rislab.errors import check_choice, check_number
from rislab.faults.catalogue import find_fault
from rislab.faults.fault import Fault
from rislab.faults.gradient_attribution import GradientAttribution
from rislab.faults.patching import patched
from rislab.faults.symptoms import OF_A_PACKAGE, OF_A_TRAINING, examine, prepare_training
from rislab.sanity.overfit import CheckResult, OverfitConfig

# Learning rates of the head at which the correct loop learns the set within a dozen epochs.
RATES = {"adam": 5e-3, "sgd": 0.3}
EPOCHS = 4
VALIDATION = 16
NOISE = 1e-6  # of float32, in quantities that are 0 or 1 on the correct loop
# What the checks of the ladder are climbed with: small, and enough for the correct package to hold on all of them.
LADDER: dict[str, Any] = {"scenes": 64, "micro_batch": 12, "accumulation_steps": 4, "epochs": 60}
# Warnings are caught for the whole process, so that one thread at a time can catch its own.
_LISTENING = threading.RLock()
# As in the figures: what is correct is blue, what is faulty vermillion; translucent, for light and dark pages alike.
_TINTS = {
    "-": ("rgba(0,114,178,0.16)", "rgba(0,114,178,0.38)"),
    "+": ("rgba(213,94,0,0.18)", "rgba(213,94,0,0.42)"),
}


@dataclass(frozen=True)
class ComparisonConfig:
    """What the clinic shows.

    Args:
        fault: name of the one to look at. epochs: of 84 scenes, in three windows each, in [1, 50].
        compared: names of further faults whose signs are read. quiz_seed: of the questions, ≥ 0.
    """

    fault: str = "never divided"
    epochs: int = EPOCHS
    compared: Sequence[str] = ()
    quiz_seed: int = 1

    def __post_init__(self) -> None:
        for name in (self.fault, *self.compared):
            find_fault(name)
        check_number("epochs", self.epochs, 1, 50, integer=True)
        check_number("quiz_seed", self.quiz_seed, 0, 2**63 - 1, integer=True)


@dataclass(frozen=True, eq=False)
class OptimiserRun:
    """A fault and the correct loop under the same setting.

    Args:
        fault: the fault. setting: of examine(), the same for both. correct, faulty: what was measured.
        quantities: all quantities of a training, read off both. warnings: what Python warned of while the faulty one
            trained, each text once.
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
        """The readings that differ by more than `least` of the larger one, or of which one is no number."""
        return [reading for reading in self.quantities if reading.differs(least)]


@dataclass(frozen=True)
class QuantityComparison:
    """A quantity on the correct package and on the broken one, each measured; `where` names a setting of its own."""

    quantity: str
    correct: float
    faulty: float
    where: str = field(default="", kw_only=True)

    def line(self) -> str:
        """One line for a terminal."""
        return f"{self.quantity:<50} {self.correct:>12.6g} {self.faulty:>12.6g}  {self.where}".rstrip()

    def differs(self, least: float) -> bool:
        """Whether the two differ by more than `least` of the larger one, and than noise; NaN differs from a number."""
        if math.isnan(self.correct) or math.isnan(self.faulty):
            return math.isnan(self.correct) != math.isnan(self.faulty)
        return abs(self.faulty - self.correct) > max(NOISE, least * max(abs(self.correct), abs(self.faulty)))


@dataclass(frozen=True)
class CheckPair:
    """A check of the conventions report or of the ladder (`suite`), on the correct package and on the broken one."""

    suite: str
    correct: CheckResult
    faulty: CheckResult

    @property
    def name(self) -> str:
        """Name of the check."""
        return self.correct.name


@dataclass(frozen=True, eq=False)
class FaultReport:
    """A fault as the clinic shows it.

    Args:
        fault: the fault. runs: by optimiser; none for a fault that no training shows. checks: the whole badge, and
            the fault's own checks of the ladder. signs: compare_symptoms() of the fault; both for a fault without cases only.
    """

    fault: Fault
    runs: dict[str, OptimiserRun] = field(default_factory=dict)
    checks: list[CheckPair] = field(default_factory=list)
    symptoms: list[QuantityComparison] = field(default_factory=list)


def shows_in_training(fault: Fault) -> bool:
    """Whether a training looks different with the fault: whether one of its signs is read off a training."""
    return any(sign.quantity in OF_A_TRAINING for sign in fault.symptoms)


def setting_of(fault: Fault, *, optimiser: str | None = None, epochs: int = EPOCHS) -> dict[str, Any]:
    """The setting in which the fault's symptom shows, as examine() takes it.

    Args:
        fault: of the catalogue. optimiser: "adam" or "sgd"; the one that the fault's sign names, else Adam, if None.
        epochs: of 84 scenes, in three windows each.

    Raises:
        InputError: for an unknown optimiser, or fewer than one epoch.
    """
    own = next((sign.setting for sign in fault.symptoms if sign.setting and sign.quantity in OF_A_TRAINING), {})
    chosen = str(own.get("optimiser", "adam")) if optimiser is None else optimiser
    check_choice("optimiser", chosen, RATES)
    check_number("epochs", epochs, 1, 10_000, integer=True)
    rates = {"lr_head": RATES[chosen], "lr_backbone": RATES[chosen] / 10}
    return {**rates, "validation": VALIDATION, **own, "optimiser": chosen, "epochs": epochs}


@contextmanager
def _package(fault: Fault | None) -> Iterator[tuple[types.ModuleType, list[warnings.WarningMessage]]]:
    """A package of one thread, the correct one without a fault, and what Python warns of in it."""
    with _LISTENING, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with patched(*([fault] if fault else [])) as package:
            yield package, said


def attribute_run(fault: Fault | None, setting: Mapping[str, Any]) -> tuple[GradientAttribution, tuple[str, ...]]:
    """The autopsy of a training in the package of a fault, or in the correct one if None, and what Python warned of."""
    with _package(fault) as (package, said):
        seen = examine(package, **setting)
    # First sentences: the rest is advice on the name of a call.
    return seen, tuple(dict.fromkeys(str(warning.message).split(". ")[0] for warning in said))


def compare_quantities(correct: GradientAttribution, faulty: GradientAttribution) -> tuple[QuantityComparison, ...]:
    """All quantities of a training, read off both; NaN where a training has nothing to read one off."""
    with _LISTENING, warnings.catch_warnings(), np.errstate(all="ignore"):
        # numpy warns of what is NaN: no step, no finite loss, or a single epoch.
        warnings.simplefilter("ignore")
        return tuple(
            QuantityComparison(name, _value(read, correct), _value(read, faulty))
            for name, read in OF_A_TRAINING.items()
        )


def _value(read: Callable[[GradientAttribution], float], seen: GradientAttribution) -> float:
    try:
        return read(seen)
    except (ZeroDivisionError, KeyError):  # a ratio to what was told as 0, or the rate of a group that is not there
        return math.nan


class ComparisonCache:
    """Trains cases, and remembers what the correct loop did under each setting."""

    def __init__(self) -> None:
        self._correct: dict[str, GradientAttribution] = {}

    def compare_runs(self, fault: Fault, *, optimiser: str | None = None, epochs: int = EPOCHS) -> OptimiserRun:
        """See compare_runs()."""
        setting = setting_of(fault, optimiser=optimiser, epochs=epochs)
        name = repr(sorted(setting.items()))
        if name not in self._correct:
            self._correct[name], _ = attribute_run(None, setting)
        faulty, said = attribute_run(fault, setting)
        return OptimiserRun(
            fault, setting, self._correct[name], faulty, compare_quantities(self._correct[name], faulty), said
        )

    def reports(
        self, fault: Fault, optimisers: Sequence[str] = tuple(RATES), *, epochs: int = EPOCHS
    ) -> Iterator[FaultReport]:
        """The fault with one optimiser after the other, each time with all that is known so far."""
        if not shows_in_training(fault):
            yield FaultReport(fault, checks=compare_checks(fault), symptoms=compare_symptoms(fault))
            return
        cases: dict[str, OptimiserRun] = {}
        for optimiser in optimisers:
            cases = {**cases, optimiser: self.compare_runs(fault, optimiser=optimiser, epochs=epochs)}
            yield FaultReport(fault, cases)


def event_counts(seen: GradientAttribution) -> dict[str, str]:
    """What a training counted and told besides its curves, in words; the last two lines are measured from outside."""
    end, told = seen.epoch_records[-1], seen.step_records
    coupled = seen.coupling[np.isfinite(seen.coupling)]
    first = [window for window in told if window.epoch == 1]
    scored = {"validation, last epoch": end.validation, "averaged weights, last epoch": end.ema}
    return {
        "forwards in training mode": str(end.counters.forwards),
        "backwards": str(end.counters.backwards),
        "steps applied / skipped": f"{end.counters.steps_applied} / {end.counters.steps_skipped}",
        "scheduler ticks": str(end.counters.scheduler_ticks),
        "windows / scenes in epoch 1": f"{len(first)} / {sum(window.samples for window in first)}",
        "scenes in the set": str(seen.scenes),
        "loss scale, first / last": f"{told[0].loss_scale:g} / {told[-1].loss_scale:g}",
        **{name: f"{value:.6g}" for name, value in scored.items() if value is not None},
        "tensors that never moved": f"{sum(seen.unchanged)} of {len(seen.unchanged)}",
        "micro-batches against one batch": f"relative error {coupled.max():.2g}" if len(coupled) else "no number",
    }


def compare_runs(fault: Fault, *, optimiser: str | None = None, epochs: int = EPOCHS) -> OptimiserRun:
    """Train the broken and the correct loop, in the setting that the fault's symptom needs.

    Args:
        fault, optimiser, epochs: see setting_of().

    Raises:
        InputError: for an unknown optimiser, or fewer than one epoch.
    """
    return ComparisonCache().compare_runs(fault, optimiser=optimiser, epochs=epochs)


def fault_report(fault: Fault, *, epochs: int = EPOCHS) -> FaultReport:
    """The fault with each optimiser, or, if no training shows it, on the badge and on its checks of the ladder."""
    return list(ComparisonCache().reports(fault, epochs=epochs))[-1]


def compare_symptoms(fault: Fault) -> list[QuantityComparison]:
    """The fault's signs, each read off the correct package and off the broken one in the setting of the sign."""
    values: list[list[float]] = []
    for lived_in in (None, fault):
        seen: dict[str, GradientAttribution] = {}
        values.append([])
        with _package(lived_in) as (package, _):
            for sign in fault.symptoms:
                if sign.quantity in OF_A_PACKAGE:
                    values[-1].append(OF_A_PACKAGE[sign.quantity](package))
                    continue
                name = repr(sorted(sign.setting.items()))
                if name not in seen:
                    seen[name] = examine(package, **sign.setting)
                values[-1].append(OF_A_TRAINING[sign.quantity](seen[name]))
    return [
        QuantityComparison(
            sign.quantity, *pair, where=", ".join(f"{name} {value}" for name, value in sign.setting.items())
        )
        for sign, *pair in zip(fault.symptoms, *values, strict=True)
    ]


def diagnose_fault(fault: Fault | None, setting: Mapping[str, Any]) -> Findings:
    """What the checkup finds in a training of the broken loop, or of the correct one if None.

    Args:
        fault: of the catalogue, or None. setting: of readings.prepared().
    """
    with _package(fault) as (package, _):
        config, data, model, fresh = prepare_training(package, **setting)
        return watch_training(package, model, data, config, fresh)


def diagnose_overfit(config: OverfitConfig) -> Findings:
    """What the checkup finds in the very training that a configuration of the ladder describes."""
    with _package(None) as (package, _):
        twin = package.sanity.overfit.OverfitConfig(**vars(config))
        return watch_training(package, twin.model(), twin.data(), twin.training(), twin.validation_data())


def watch_training(package: types.ModuleType, model: nn.Module, data: Any, config: Any, fresh: Any) -> Findings:
    """Train in a package, watched, and say what is wrong with the loop.

    Args:
        package: see patched(). model: to be trained. data, fresh: its SceneBatch, and that of the validation or
            None. config: its TrainConfig.
    """
    state = package.training.state.TrainState.begin(model, len(data), config)
    observer = watch(
        model,
        state.optimizer,
        loss=package.training.loop.compute_loss,
        of=lambda loss: loss.total,
        accumulation_steps=config.accumulation_steps,
        scaler=state.scaler,
        scheduler=state.scheduler,
        clip_norm=config.clip_norm,
        epochs=config.epochs,
        cadence="step",
    )
    package.training.loop.compute_loss = observer.loss
    with observer:
        told = [*package.training.loop.fit(model, data, config, validation=fresh, resume=state)]
    return observer.findings(reported=[record.train for record in told if hasattr(record, "train")])


def unexpected(fault: Fault, found: Sequence[QuantityComparison]) -> list[str]:
    """Where the readings of a fault's signs are not what the catalogue says; empty if the fault shows as it should.

    Args:
        fault: of the catalogue. found: its compare_symptoms(), in the order of its signs.
    """
    said = []
    for sign, reading in zip(fault.symptoms, found, strict=True):
        if not sign.shown_by(reading.faulty):
            said.append(f"{fault.name}: {sign.quantity} is {reading.faulty:g}, outside [{sign.low:g}, {sign.high:g}]")
        if sign.shown_by(reading.correct):
            said.append(f"correct loop: {sign.quantity} is {reading.correct:g}, the sign of {fault.name!r}")
    return said


def compare_checks(fault: Fault) -> list[CheckPair]:
    """The badge, and the checks of the ladder that the fault names, on the correct package and on the broken one."""
    found = []
    for lived_in in (None, fault):
        with _package(lived_in) as (package, _):
            badge = [("conventions", check) for check in package.sanity.conventions.check_conventions().checks]
            config = package.sanity.overfit.OverfitConfig(**LADDER)
            checks = package.sanity.overfit.ladder(config, only=fault.checks) if fault.checks else ()
            found.append(badge + [("ladder", check) for check in checks])
    return [
        CheckPair(of, CheckResult(**vars(correct)), CheckResult(**vars(faulty)))
        for (of, correct), (_, faulty) in zip(*found, strict=True)
    ]


@dataclass(frozen=True)
class Diff:
    """A fault's edit for the eye: coloured in a notebook, a unified diff as text."""

    fault: Fault

    def __str__(self) -> str:
        return self.fault.diff()

    def __repr__(self) -> str:
        return self.fault.diff()

    def _repr_html_(self) -> str:
        lines = self.fault.diff().splitlines()[2:]
        head = f"rislab/{self.fault.module}.py: − correct, + {html.escape(self.fault.name)}"
        body = "".join(_hunk(hunk) for hunk in _hunks(lines))
        font = "font:12px/1.45 ui-monospace,Menlo,Consolas,monospace"
        return (
            f"<div style='{font};margin:4px 0'><b>{head}</b>"
            f"<div style='white-space:pre-wrap;overflow-wrap:anywhere'>{body}</div></div>"
        )


def _hunks(lines: Sequence[str]) -> list[list[str]]:
    starts = [place for place, line in enumerate(lines) if line.startswith("@@")]
    return [list(lines[one:other]) for one, other in zip(starts, [*starts[1:], len(lines)], strict=True)]


def _hunk(lines: Sequence[str]) -> str:
    """A hunk as HTML, without the indentation that all its lines share."""
    code = [line[1:] for line in lines[1:] if line[1:].strip()]
    shared = min((len(line) - len(line.lstrip()) for line in code), default=0)
    marks = _marked([line[:1] + line[1 + shared :] for line in lines[1:]])
    where = lines[0].split(" ")[1].lstrip("-").split(",")[0]
    return f"<span style='display:block;opacity:0.7'>  line {where}</span>" + "".join(marks)


def _marked(lines: Sequence[str]) -> list[str]:
    """Lines of a hunk as HTML; where as many lines came as went, what differs within them is marked as well."""
    removed = [place for place, line in enumerate(lines) if line[:1] == "-"]
    added = [place for place, line in enumerate(lines) if line[:1] == "+"]
    bodies = [html.escape(line[1:]) for line in lines]
    if len(removed) == len(added):
        for one, other in zip(removed, added, strict=True):
            bodies[one], bodies[other] = _differing(lines[one][1:], lines[other][1:])
    marked = []
    for line, body in zip(lines, bodies, strict=True):
        sign = {"-": "−", "+": "+"}.get(line[:1], " ")
        back = f";background:{_TINTS[line[:1]][0]}" if line[:1] in _TINTS else ""
        marked.append(f"<span style='display:block{back}'>{sign} {body}</span>")
    return marked


def _differing(one: str, other: str) -> tuple[str, str]:
    """Two lines as HTML, each with what the other has not in a stronger tint."""
    parts: tuple[list[str], list[str]] = ([], [])
    words = [re.findall(r"\w+|\s+|.", line) for line in (one, other)]
    for kind, a, b, c, d in difflib.SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        for texts, text, sign in ((parts[0], "".join(words[0][a:b]), "-"), (parts[1], "".join(words[1][c:d]), "+")):
            plain = html.escape(text)
            mark = f"<span style='background:{_TINTS[sign][1]};font-weight:bold'>{plain}</span>"
            texts.append(plain if kind == "equal" or not text else mark)
    return "".join(parts[0]), "".join(parts[1])
