"""Correct loops of many kinds: none of them may be flagged, however it is watched."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rislab.checkup.findings import Finding
from rislab.checkup.loop_watch import watch
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.windows import Declared
from tests.mutation.report import header, table
from tests.mutation.trial import workers

PRECISIONS = {"fp64": None, "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# 100 samples in micro-batches of 8 are thirteen, the last of 4.
SAMPLES, MICRO_BATCH, EPOCHS = 100, 8, 2
SIZES = (1, 2, 3, 4, 5, 8, 13)
OPTIMISERS: dict[str, Callable[[Sequence[Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9),
    "Adam": lambda weights: torch.optim.Adam(weights, lr=1e-2),
    "AdamW fused": lambda weights: torch.optim.AdamW(weights, lr=1e-2, fused=True),
    "LBFGS": lambda weights: torch.optim.LBFGS(weights, lr=0.1, max_iter=4),
}
FEATURES = (
    "plain", "batch norm", "dropout", "tied weights", "checkpointing", "two optimisers", "GAN", "frozen part",
    "drop last", "max steps", "by hand",
)  # fmt: skip
# The losses declared, or guessed from the backwards; and a script's optimisers found where they are.
WAYS = ("declared", "guessed", "whole process")
# Of float32 under autocast, with the first loss scale so large that the first steps are skipped.
SCALE = 2.0**20


@dataclass(frozen=True)
class CorrectLoop:
    """A correct loop, and how it is watched; accumulation_steps of 13 are all micro-batches of an epoch."""

    feature: str
    precision: str
    accumulation_steps: int
    optimiser: str
    clip: float | None
    way: str

    @property
    def name(self) -> str:
        """All of it in words."""
        clip = f"clip {self.clip}" if self.clip else "no clip"
        return f"{self.feature}, {self.precision}, K = {self.accumulation_steps}, {self.optimiser}, {clip}, {self.way}"


def all_cases() -> list[CorrectLoop]:
    """All combinations that make sense; each is watched in one way, drawn by a fixed seed."""
    found = []
    chance = random.Random(0)
    for feature, precision, size, optimiser, clip in itertools.product(
        FEATURES, PRECISIONS, SIZES, OPTIMISERS, (None, 0.1)
    ):
        # LBFGS asks for the loss again and again within a step: no scaler, no half precision, one model, no clipping.
        single = feature in ("plain", "frozen part", "drop last", "tied weights") and precision in ("fp64", "fp32")
        if optimiser == "LBFGS" and not (single and clip is None):
            continue
        if feature == "by hand" and (optimiser != "SGD" or precision == "fp16"):
            continue
        if feature == "GAN" and (size > 3 or precision == "fp16"):
            continue
        found.append(CorrectLoop(feature, precision, size, optimiser, clip, chance.choice(WAYS)))
    return found


class Network(nn.Module):
    """Two layers, with what a feature asks for between or around them."""

    def __init__(self, feature: str) -> None:
        super().__init__()
        between = {"batch norm": nn.BatchNorm1d(12), "dropout": nn.Dropout(0.3)}.get(feature, nn.Identity())
        self.first, self.last = nn.Sequential(nn.Linear(6, 12), between, nn.Tanh()), nn.Linear(12, 3)
        self.tied, self.checkpointed = feature == "tied weights", feature == "checkpointing"
        if self.tied:
            self.middle = nn.Linear(12, 12)
            self.again = nn.Linear(12, 12)
            self.again.weight = self.middle.weight
        if feature == "frozen part":
            self.first.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 6] → [B, 3]."""
        hidden = checkpoint(self.first, x, use_reentrant=False) if self.checkpointed else self.first(x)
        if self.tied:
            hidden = torch.tanh(self.again(torch.tanh(self.middle(hidden))))
        output: Tensor = self.last(hidden)
        return output


@dataclass
class Training:
    """The parts of a CorrectLoop, and its loop."""

    case: CorrectLoop
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    schedulers: list[Any] = field(default_factory=list)
    data: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)

    @classmethod
    def prepared(cls, case: CorrectLoop) -> Training:
        """Networks, optimisers, schedules and data."""
        torch.manual_seed(0)
        kind = torch.float64 if case.precision == "fp64" else torch.float32
        model = Network(case.feature).to(kind)
        live = [value for value in model.parameters() if value.requires_grad]
        groups = [live[: len(live) // 2], live[len(live) // 2 :]] if case.feature == "two optimisers" else [live]
        optimizers = [OPTIMISERS[case.optimiser](group) for group in groups]
        schedulers = [torch.optim.lr_scheduler.LambdaLR(one, lambda tick: 0.98**tick) for one in optimizers]
        scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=case.precision == "fp16")
        x = torch.randn(SAMPLES, 6, dtype=kind)
        y = torch.stack([x.sum(dim=1), x[:, 0] * x[:, 1], x[:, 2].sin()], dim=1)
        data = list(zip(x.split(MICRO_BATCH), y.split(MICRO_BATCH), strict=True))
        return cls(case, model, optimizers, scaler, schedulers, data[:-1] if case.feature == "drop last" else data)

    def compute_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Under autocast in half precision."""
        half = PRECISIONS[self.case.precision]
        with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
            return functional.mse_loss(self.model(x).to(y.dtype), y)

    def run(self) -> None:
        """All epochs."""
        taken = 0
        for _ in range(EPOCHS):
            self.model.train()
            total = 0.0
            for first in range(0, len(self.data), self.case.accumulation_steps):
                window = self.data[first : first + self.case.accumulation_steps]
                total += self.step(window)
                taken += 1
                if self.case.feature == "max steps" and taken == 4:
                    return
            self.reported.append(total / sum(len(x) for x, _ in self.data))

    def step(self, window: Sequence[tuple[Tensor, Tensor]]) -> float:
        """One step on a window; returns the sum of its samples' losses."""
        if self.case.optimiser == "LBFGS":
            told: list[float] = []
            self.optimizers[0].step(lambda: self.closure(window, told))
            self.schedulers[0].step()
            return told[0]
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total = self.backward(window)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        # Where a scaler has looked for infinity already, a joint norm would carry the NaN of one optimiser's gradients
        # into those of the other, and its step would be taken.
        joint = [self.model.parameters()]
        apart = [[value for group in one.param_groups for value in group["params"]] for one in self.optimizers]
        for weights in apart if self.scaler.is_enabled() else joint:
            if self.case.clip:
                nn.utils.clip_grad_norm_(weights, self.case.clip)
        before = self.scaler.get_scale()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= before:
            for scheduler in self.schedulers:
                scheduler.step()
        return total

    def closure(self, window: Sequence[tuple[Tensor, Tensor]], told: list[float]) -> float:
        """What LBFGS asks for."""
        self.optimizers[0].zero_grad(set_to_none=True)
        told.append(self.backward(window))
        return told[-1] / sum(len(x) for x, _ in window)

    def backward(self, window: Sequence[tuple[Tensor, Tensor]]) -> float:
        """Accumulate the gradient of a window."""
        samples, total = sum(len(x) for x, _ in window), 0.0
        for x, y in window:
            loss = self.compute_loss(x, y)
            self.scaler.scale(loss * len(x) / samples).backward()
            total += loss.item() * len(x)
        return total


class ByHand(Training):
    """Weights moved without an optimiser."""

    def step(self, window: Sequence[tuple[Tensor, Tensor]]) -> float:
        total = self.backward(window)
        with torch.no_grad():
            for value in self.model.parameters():
                assert value.grad is not None
                value -= 0.05 * value.grad
                value.grad = None
        return total


class Adversaries(Training):
    """A generator and a discriminator, each with an optimiser of its own."""

    def step(self, window: Sequence[tuple[Tensor, Tensor]]) -> float:
        generator, discriminator = self.optimizers
        network: Any = self.model
        samples, total = sum(len(x) for x, _ in window), 0.0
        discriminator.zero_grad(set_to_none=True)
        for x, y in window:
            real, false = network["discriminator"](y), network["discriminator"](network["generator"](x).detach())
            loss = _against(real, 1.0) + _against(false, 0.0)
            (loss * len(x) / samples).backward()
            total += loss.item() * len(x)
        self._clipped(network["discriminator"])
        discriminator.step()
        generator.zero_grad(set_to_none=True)
        for x, _ in window:
            loss = _against(network["discriminator"](network["generator"](x)), 1.0)
            (loss * len(x) / samples).backward()
        self._clipped(network["generator"])
        generator.step()
        for scheduler in self.schedulers:
            scheduler.step()
        return total

    def _clipped(self, network: nn.Module) -> None:
        if self.case.clip:
            nn.utils.clip_grad_norm_(network.parameters(), self.case.clip)


def _against(logits: Tensor, wanted: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))


def _training(case: CorrectLoop) -> Training:
    kinds = {"by hand": ByHand, "GAN": Adversaries}
    training = kinds.get(case.feature, Training).prepared(case)
    if case.feature == "GAN":
        kind = next(training.model.parameters()).dtype
        generator, discriminator = (
            Network("").to(kind),
            nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 1)).to(kind),
        )
        training.model = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
        training.optimizers = [OPTIMISERS[case.optimiser](list(one.parameters())) for one in (generator, discriminator)]
        training.schedulers = [
            torch.optim.lr_scheduler.LambdaLR(one, lambda tick: 0.98**tick) for one in training.optimizers
        ]
    return training


def watched(case: CorrectLoop) -> list[Finding]:
    """Everything that is said of a correct loop."""
    # Before the network is there, so that its first forward is seen.
    if case.way == "whole process":
        with ProcessWatch(declared=Declared(mean="")) as seen:
            training = _training(case)
            training.run()
        return list(seen.findings())
    training = _training(case)
    whole = len(training.reported) == EPOCHS or case.feature != "max steps"
    size = None
    if case.way == "declared" and case.optimiser != "LBFGS":
        size = case.accumulation_steps
    scaler = training.scaler if training.scaler.is_enabled() else None
    parts: list[tuple[Any, Any, Any]] = [
        (training.model, optimizer, scheduler)
        for optimizer, scheduler in zip(training.optimizers, training.schedulers, strict=True)
    ]
    if case.feature == "GAN":
        model: Any = training.model
        parts = [(model[name], *part[1:]) for name, part in zip(("generator", "discriminator"), parts, strict=True)]
    with ExitStack() as stack:
        watches = [
            stack.enter_context(
                watch(
                    model,
                    optimizer,
                    loss=functional.mse_loss if case.way == "declared" and case.feature != "GAN" else None,
                    accumulation_steps=size,
                    scaler=scaler,
                    scheduler=scheduler,
                    clip_norm=case.clip if case.way == "declared" and len(parts) == 1 else None,
                )
            )
            for model, optimizer, scheduler in parts
        ]
        training.run()
    told = training.reported if len(parts) == 1 and whole else None
    return [finding for one in watches for finding in one.findings(reported=told)]


def watched_case(case: CorrectLoop) -> tuple[CorrectLoop, list[Finding]]:
    """A CorrectLoop, and what was found in it; for the workers."""
    return case, watched(case)


def trials(cases: Sequence[CorrectLoop]) -> Iterator[tuple[CorrectLoop, list[Finding]]]:
    """All findings, in two processes."""
    with workers() as pool:
        yield from pool.imap(watched_case, cases, chunksize=16)


def sample(count: int, seed: int = 0) -> list[CorrectLoop]:
    """Some of them, among which every value of every field occurs."""
    chance = random.Random(seed)
    pool = all_cases()
    chosen = chance.sample(pool, count)
    for name in ("feature", "precision", "accumulation_steps", "optimiser", "way"):
        missing = {getattr(case, name) for case in pool} - {getattr(case, name) for case in chosen}
        chosen += [next(case for case in pool if getattr(case, name) == value) for value in sorted(missing, key=str)]
    return chosen


def text(found: Sequence[tuple[CorrectLoop, Sequence[Finding]]], seconds: float) -> str:
    """The whole report, in Markdown."""
    faults = [(case, [one.name for one in said if one.severity == "fault"]) for case, said in found]
    flagged = [(case, names) for case, names in faults if names]
    milder = Counter((one.severity, one.name) for _, said in found for one in said if one.severity != "fault")
    lines = header("What the checkup says of correct loops", "python -m tests.mutation")
    lines += [
        f"{len(found)} trainings of {SAMPLES} samples in micro-batches of {MICRO_BATCH}, {EPOCHS} epochs each, watched "
        f"in {seconds:.0f} s.",
        "",
        f"- **flagged, of all: {len(flagged)} of {len(found)}**",
        *(f"- {case.name}: {', '.join(names)}" for case, names in flagged),
        "",
        "## What they were made of",
        "",
    ]
    for name in ("feature", "precision", "accumulation_steps", "optimiser", "clip", "way"):
        counts = Counter(str(getattr(case, name)) for case, _ in found)
        lines += [f"- {name.replace('_', ' ')}: {', '.join(f'{value} × {count}' for value, count in counts.items())}"]
    lines += ["", "## What was said besides", ""]
    lines += table(("", "what", "runs"), [(*what, count) for what, count in milder.most_common()])
    return "\n".join(lines).rstrip() + "\n"
