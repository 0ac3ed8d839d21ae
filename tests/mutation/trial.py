"""A mutant trained under several settings beside the correct loop, and watched by the checkup."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import sys
import traceback
import types
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rislab import provenance
from rislab.checkup.findings import Finding
from rislab.faults import comparison
from rislab.faults.fault import Fault
from rislab.training.state import TrainState
from tests.checkup.test_loop_watch import run_watched
from tests.mutation.mutants import LOOP, Mutant, source

# Seconds for one training: a mutant may never end.
LIMIT = 20


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a training left, told and was told.

    Args:
        found: of the checkup. weights: all, flat. train: the reported loss of each epoch.
        told: everything else that can be seen of the run, as text by name; times of the clock are not in it.
        crash: the exception that ended it, or "". blamed: whether the checkup raised it.
    """

    found: tuple[Finding, ...] = ()
    weights: NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    train: tuple[float, ...] = ()
    told: dict[str, str] = field(default_factory=dict)
    crash: str = ""
    blamed: bool = False

    @property
    def faults(self) -> list[Finding]:
        """Findings of severity "fault"."""
        return [finding for finding in self.found if finding.severity == "fault"]


@dataclass(frozen=True)
class Setting:
    """How a loop is trained; between them the settings must make every line of the loop matter.

    Args:
        name: in words. fields: of readings.prepared(), or of test_checkup.run_watched().
        dropout: probability, before the head. handed_over: "train" or "eval", mode of the network that fit() is given.
        scale: first loss scale. stop: windows after which the run is stopped, and resumed in place; None goes through.
        drawing: whether the optimiser and whoever takes the records draw random numbers, each from the states that
            are current there.
    """

    name: str
    fields: Callable[[], dict[str, Any]]
    dropout: float = 0.0
    handed_over: str = "train"
    scale: float | None = None
    stop: int | None = None
    drawing: bool = False


def _rates(optimiser: str) -> dict[str, Any]:
    rate = comparison.RATES[optimiser]
    return {"optimiser": optimiser, "lr_head": rate, "lr_backbone": rate / 10}


# 84 scenes in micro-batches of 8 are eleven, the last of 4, in windows of 4, 4 and 3; 52 are seven, in 3, 3 and 1.
FIT_SETTINGS = (
    Setting(
        "fp32, SGD, clip, warm-up, validation, random numbers drawn beside the loop",
        lambda: {**_rates("sgd"), "epochs": 3, "clip_norm": 0.2, "warmup": 2, "validation": 16},
        drawing=True,
    ),
    Setting(
        "fp32, Adam, K = 3, dropout, curriculum, blend, handed over in eval mode, stopped and resumed",
        lambda: {
            **_rates("adam"), "scenes": 52, "accumulation_steps": 3, "epochs": 3, "curriculum": "three-phase",
            "blend": 0.2,
        },
        dropout=0.2,
        handed_over="eval",
        stop=2,
    ),
    Setting(
        "fp16 with a scaler that skips, SGD, clip",
        lambda: {**_rates("sgd"), "precision": "fp16", "epochs": 3, "clip_norm": 0.2, "warmup": 2},
        scale=2.0**26,
    ),
    Setting(
        "fp64, Adam, clip, no average",
        lambda: {
            **_rates("adam"), "scenes": 52, "accumulation_steps": 3, "precision": "fp64", "clip_norm": 0.3, "ema": None,
        },
    ),
    Setting(
        "fp32, SGD, clip, a scene that overflows",
        lambda: {**_rates("sgd"), "clip_norm": 0.2, "poison": "overflow", "warmup": 0},
    ),
)  # fmt: skip


def _decaying(tick: int) -> float:
    return float(0.9**tick)


# 52 samples in micro-batches of 8, in windows of 3, 3 and 1.
PLAIN_SETTINGS = (
    Setting("fp32, SGD, schedule", lambda: {"schedule": _decaying}),
    Setting(
        "fp32, SGD, clip, dropout, handed over in eval mode",
        lambda: {"clip": 0.3, "kind": "dropout", "prepare": lambda model: model.eval()},
    ),
    Setting(
        "fp16 with a scaler that skips, SGD, clip, schedule",
        lambda: {
            "half": torch.float16, "scaler": torch.amp.GradScaler("cpu", init_scale=2.0**20), "clip": 0.3,
            "schedule": _decaying,
        },
    ),
    Setting(
        "fp32, Adam, batch norm, schedule",
        lambda: {"optimiser": torch.optim.Adam, "kind": "batch norm", "schedule": _decaying},
    ),
)  # fmt: skip


def _train_fit(text: str, setting: Setting) -> Outcome:
    """The loop of rislab in a package of its own, through comparison.diagnose_fault()."""
    seen: dict[str, Any] = {"train": [], "told": defaultdict(list)}
    fault = Fault("mutant", "", "training.loop", before=source("fit"), after=text, description="")
    begin = mock.patch.object(TrainState, "begin", partial(_begun, TrainState.begin, setting))
    with (
        begin,
        mock.patch.object(
            comparison, "prepare_training", partial(_prepared, comparison.prepare_training, setting, seen)
        ),
    ):
        found = comparison.diagnose_fault(fault, setting.fields())
    state, told = seen["state"], {name: " ".join(values) for name, values in seen["told"].items()}
    told["averaged weights"] = "" if state.ema is None else str(_flat(state.ema.module).tobytes())
    return Outcome(tuple(found), _flat(state.model), tuple(seen["train"]), told)


def _prepared(genuine: Callable[..., Any], setting: Setting, seen: dict[str, Any], package: Any, **fields: Any) -> Any:
    """readings.prepared(), with what a Setting asks for besides, and with an ear on the loop's records."""
    config, data, model, fresh = genuine(package, **fields)
    if setting.dropout:
        model.head = nn.Sequential(nn.Dropout(setting.dropout), model.head)
    model.train(setting.handed_over == "train")
    package.training.loop.fit = partial(_heard, package.training.loop.fit, setting, seen)
    return config, data, model, fresh


def _begun(begin: Callable[..., Any], setting: Setting, *args: Any) -> Any:
    state = begin(*args)
    if setting.scale is not None:
        state.scaler = torch.amp.GradScaler("cpu", init_scale=setting.scale)
    if setting.drawing:
        state.optimizer.register_step_post_hook(_drawn)
    return state


def _drawn(*unused: Any) -> None:
    """Draw a random number, as stochastic rounding does within a step."""
    torch.rand(1)


def _heard(fit: Callable[..., Any], setting: Setting, seen: dict[str, Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    """fit(), stopped and resumed if asked for; notes each record, and what a checkpoint would hold at that moment."""
    state = seen["state"] = kwargs["resume"]
    for end in (None,) if setting.stop is None else (setting.stop, None):
        with closing(fit(*args, **kwargs)) as stream:
            for record in islice(stream, end):
                if hasattr(record, "train"):
                    seen["train"].append(float(record.train))
                _note(seen["told"], record, state)
                if setting.drawing:
                    torch.rand(1)
                yield record


def _note(told: dict[str, list[str]], record: Any, state: Any) -> None:
    for name, value in vars(record).items():
        if name != "seconds":
            told[f"{type(record).__name__}.{name}"].append(repr(value))
    at = state.progress
    told["position"].append(repr((at.epoch, at.window, at.step, at.loss_sum)))
    told["random state"].append(hashlib.sha256(state.randomness.to_plain()["torch"][0].numpy()).hexdigest())


def _train_plain(text: str, setting: Setting) -> Outcome:
    """A loop in the place of that of tests/test_checkup.py."""
    found, model, reported = run_watched((LOOP, text), **setting.fields(), scheduler_interval="step")
    return Outcome(tuple(found), _flat(model), tuple(map(float, reported)))


def _flat(model: nn.Module) -> NDArray[Any]:
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])


SETTINGS = {"fit": FIT_SETTINGS, "plain": PLAIN_SETTINGS, "counted": PLAIN_SETTINGS}


class EndlessError(BaseException):
    """A training took longer than LIMIT; nothing that catches exceptions may catch it."""


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: types.FrameType | None) -> None:
        raise EndlessError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(loop: str, text: str, setting: Setting) -> Outcome:
    """Train a loop of this source text; an exception is an outcome too."""
    # Not the seed of the run: whose random numbers are drawn must show.
    torch.manual_seed(4321)
    try:
        with _limited(LIMIT), warnings.catch_warnings():
            # A warning of torch is no finding of the checkup's, and no exception.
            warnings.simplefilter("ignore")
            return (_train_fit if loop == "fit" else _train_plain)(text, setting)
    except (Exception, EndlessError) as error:
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
        innermost = Path(lines[-1].filename).name if lines else ""
        blamed = innermost in ("recorder.py", "loop_watch.py") and lines[-1].name != "loss"
        text = str(error).splitlines()[0] if str(error) else ""
        return Outcome(crash=f"{type(error).__name__}: {text}", blamed=blamed)


# Verdicts.

KINDS = ("flagged", "survivor", "loud", "observation only", "equivalent")


@dataclass(frozen=True)
class Verdict:
    """A mutant beside the correct loop; settings are counted from 1.

    Args:
        mutant: which. kind: "flagged" or "survivor" if it changes the weights or the reported loss in silence, by
            whether a fault is found where it changes something; "loud" if it does neither where it does not raise;
            "observation only" if it changes other things that are told; "equivalent" if nothing.
        changes: what changed, by setting. found: findings by setting, those left out that the correct loop gets too.
        crashes: exceptions by setting. blamed: whether the checkup raised one.
        unjust: settings in which a fault was found where nothing had changed.
    """

    mutant: Mutant
    kind: str
    changes: dict[int, str]
    found: dict[int, list[Finding]]
    crashes: dict[int, str]
    blamed: bool
    unjust: list[int]

    def names(self, faults: bool) -> dict[str, list[int]]:
        """Names of the findings, faults or milder ones, each with the settings in which it was made."""
        names: dict[str, list[int]] = defaultdict(list)
        for number, findings in self.found.items():
            for finding in findings:
                if (finding.severity == "fault") == faults:
                    names[finding.name].append(number)
        return dict(names)


@cache
def correct(loop: str, number: int) -> Outcome:
    """The loop as it stands in one of its settings, counted from 1."""
    return outcome(loop, source(loop), SETTINGS[loop][number - 1])


def run_mutant(mutant: Mutant) -> Verdict:
    """Train a mutant under all settings of its loop."""
    pairs = {
        number: (outcome(mutant.loop, mutant.source, setting), correct(mutant.loop, number))
        for number, setting in enumerate(SETTINGS[mutant.loop], start=1)
    }
    silent = {number: pair for number, pair in pairs.items() if not pair[0].crash}
    broken = {number: text for number, pair in silent.items() if (text := harm(*pair))}
    seen = {number: text for number, pair in silent.items() if (text := observed(*pair))}
    crashes = {number: found.crash for number, (found, _) in pairs.items() if found.crash}
    faulty = [number for number, (found, _) in silent.items() if found.faults]
    kind = "survivor" if broken else "loud" if crashes else "observation only" if seen else "equivalent"
    return Verdict(
        mutant=mutant,
        kind="flagged" if broken and any(number in broken or number in seen for number in faulty) else kind,
        changes=broken or seen,
        found={number: _new(*pair) for number, pair in silent.items()},
        crashes=crashes,
        blamed=any(found.blamed for found, _ in pairs.values()),
        unjust=[number for number in faulty if number not in broken and number not in seen],
    )


def _new(found: Outcome, true: Outcome) -> list[Finding]:
    """Findings that the correct loop does not get."""
    known = {finding.name for finding in true.found}
    return [finding for finding in found.found if finding.severity == "fault" or finding.name not in known]


def harm(found: Outcome, true: Outcome) -> str:
    """How weights and reported loss differ, in words; "" if they are the same bit by bit."""
    said = []
    if found.weights.tobytes() != true.weights.tobytes():
        distance = float(np.linalg.norm(found.weights - true.weights) / np.linalg.norm(true.weights))
        said.append(f"weights {distance:.1e}")
    if repr(found.train) != repr(true.train):
        said.append(f"train {_numbers(found.train)} for {_numbers(true.train)}")
    return ", ".join(said)


def observed(found: Outcome, true: Outcome) -> str:
    """Names of the other things that are told differently."""
    names = [name for name in true.told | found.told if found.told.get(name) != true.told.get(name)]
    return ", ".join(name.removeprefix("StepRecord.") for name in names)


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:.6g}" for value in values)


def false_alarms() -> list[str]:
    """Faults that the checkup finds in the correct loops; raises if one does not train, or not twice the same."""
    said = []
    for name, settings in SETTINGS.items():
        for number, setting in enumerate(settings, start=1):
            once, again = correct(name, number), outcome(name, source(name), setting)
            if once.crash or harm(once, again) or observed(once, again):
                differs = once.crash or f"{harm(once, again)} {observed(once, again)}"
                raise RuntimeError(f"the correct loop {name!r} under {setting.name!r}: {differs}")
            said += [f"{name}, {setting.name}: {finding.name}" for finding in once.faults]
    return said


def single_threaded() -> None:
    """One thread, as sums must not depend on how many there are."""
    torch.set_num_threads(1)


@contextmanager
def workers() -> Iterator[Any]:
    """A pool of two processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(2, provenance.cores()), initializer=single_threaded) as pool:
        yield pool


def campaign(chosen: Sequence[Mutant]) -> list[Verdict]:
    """The verdicts of all, in their order; tells how far it is."""
    found = []
    with workers() as pool:
        for verdict in pool.imap(run_mutant, chosen):
            found.append(verdict)
            if sys.stderr.isatty() or len(found) % 20 == 0:
                print(f"\r{len(found)} of {len(chosen)} mutants", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found
