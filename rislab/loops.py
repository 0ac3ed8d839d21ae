"""Four training loops as people write them, each with a fault to be edited into it: what the checkup says of either.

Each trains the network of this lab on a few scenes, in windows of micro-batches. None of them knows that it is watched.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup import Watch, watch
from rislab.data import SceneBatch, SceneConfig, simulate
from rislab.errors import check_choice, check_number
from rislab.finding import Findings
from rislab.losses import nmse
from rislab.model import CovarianceNet

# 64 scenes in micro-batches of 8; accelerate divides by K, so that no window may be smaller than the others.
SCENES, MICRO_BATCH, SIZE = 64, 8, 4


def score(model: nn.Module, batch: SceneBatch) -> Tensor:
    """NMSE of what a network predicts, mean over scenes."""
    return nmse(model(batch.snapshots, batch.codes, batch.channel), batch.factor()).mean()


def plain(model: nn.Module, optimizer: Any, batches: Sequence[SceneBatch], size: int, epochs: int) -> list[float]:
    """Accumulation by hand: each micro-batch is weighed by its share of the window."""
    reported = []
    for _ in range(epochs):
        total = 0.0
        for first in range(0, len(batches), size):
            window = batches[first : first + size]
            samples = sum(map(len, window))
            optimizer.zero_grad()
            for batch in window:
                loss = score(model, batch)
                (loss * len(batch) / samples).backward()
                total += loss.item() * len(batch)
            optimizer.step()
        reported.append(total / sum(map(len, batches)))
    return reported


def mixed(
    model: nn.Module,
    optimizer: Any,
    batches: Sequence[SceneBatch],
    size: int,
    epochs: int,
    *,
    scaler: torch.amp.GradScaler,
    scheduler: Any,
) -> list[float]:
    """float16 under autocast, with a gradient scaler, clipping and a schedule."""
    reported = []
    for _ in range(epochs):
        total = 0.0
        for i, batch in enumerate(batches):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = score(model, batch)
            scaler.scale(loss / size).backward()
            total += loss.item()
            if (i + 1) % size == 0:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                scale = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if scaler.get_scale() >= scale:
                    scheduler.step()
        reported.append(total / len(batches))
    return reported


def fabric(model: Any, optimizer: Any, batches: Sequence[SceneBatch], size: int, epochs: int) -> list[float]:
    """Lightning Fabric: it holds back the exchange of gradients, and leaves the division to the loop."""
    from lightning_fabric import Fabric

    lightning = Fabric(accelerator="cpu", devices=1)
    model, optimizer = lightning.setup(model, optimizer)
    reported = []
    for _ in range(epochs):
        total = 0.0
        for i, batch in enumerate(batches):
            last = (i + 1) % size == 0
            with lightning.no_backward_sync(model, enabled=not last):
                loss = score(model, batch)
                lightning.backward(loss / size)
            total += loss.item()
            if last:
                optimizer.step()
                optimizer.zero_grad()
        reported.append(total / len(batches))
    return reported


def accelerated(model: Any, optimizer: Any, batches: Sequence[SceneBatch], size: int, epochs: int) -> list[float]:
    """accelerate: accumulate() decides which step is one, and backward() divides by K."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=size)
    model, optimizer = accelerator.prepare(model, optimizer)
    reported = []
    for _ in range(epochs):
        total = 0.0
        for batch in batches:
            with accelerator.accumulate(model):
                loss = score(model, batch)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            total += loss.item()
        reported.append(total / len(batches))
    return reported


@dataclass(frozen=True)
class Loop:
    """One of the loops.

    Args:
        train: the function. needs: a package that must be installed, or "". fault: its name.
        before, after: the edit that puts the fault into it.
    """

    train: Callable[..., list[float]]
    needs: str
    fault: str
    before: str
    after: str

    @property
    def missing(self) -> bool:
        """Whether the package that it needs is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None

    def source(self, *, broken: bool = False) -> str:
        """Its source text, with the fault or without."""
        text = inspect.getsource(self.train)
        return text.replace(self.before, self.after) if broken else text

    def diff(self) -> str:
        """The edit, line by line."""
        removed = [f"- {line.strip()}" for line in self.before.splitlines() if line.strip()]
        return "\n".join([*removed, *(f"+ {line.strip()}" for line in self.after.splitlines() if line.strip())])


LOOPS = {
    "plain": Loop(plain, "", "never divided", "(loss * len(batch) / samples).backward()", "loss.backward()"),
    "mixed": Loop(mixed, "", "clipped before unscaling", "                scaler.unscale_(optimizer)\n", ""),
    "fabric": Loop(
        fabric,
        "lightning_fabric",
        "zeroed per micro-batch",
        "            total += loss.item()\n            if last:\n                optimizer.step()\n    ",
        "            total += loss.item()\n            if last:\n                optimizer.step()\n",
    ),
    "accelerated": Loop(accelerated, "accelerate", "divided twice", "backward(loss)", "backward(loss / size)"),
}


@dataclass(frozen=True)
class LoopsConfig:
    """How the loops are run.

    Args:
        epochs: 1 to 50. seed: of scenes and weights.
    """

    epochs: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, 1, 50, whole=True)
        check_number("seed", self.seed, 0, 2**31 - 1, whole=True)


@dataclass(frozen=True)
class Examined:
    """What a loop reported, how it was watched, and what the checkup says of it."""

    reported: list[float]
    watch: Watch
    findings: Findings

    def _repr_html_(self) -> str:
        told = ", ".join(f"{value:.4f}" for value in self.reported)
        return f"<p>NMSE as reported, epoch by epoch: {told}</p>{self.findings._repr_html_()}"

    def __str__(self) -> str:
        told = ", ".join(f"{value:.4f}" for value in self.reported)
        return f"NMSE as reported, epoch by epoch: {told}\n{self.findings}"


def examined(name: str, config: LoopsConfig | None = None, *, broken: bool = False) -> Examined:
    """Run one of the loops under the checkup's eyes.

    Args:
        name: of LOOPS. config: see LoopsConfig. broken: with its fault edited in.

    Raises:
        InputError: for an unknown name.
    """
    check_choice("name", name, LOOPS)
    loop, config = LOOPS[name], config or LoopsConfig()
    data = simulate(SceneConfig.preset("classroom"), SCENES, seed=config.seed)
    batches = [data[first : first + MICRO_BATCH] for first in range(0, SCENES, MICRO_BATCH)]
    torch.manual_seed(config.seed)
    model = CovarianceNet.build(data.config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    train, declared = _compiled(loop, broken=broken), {}
    if name == "mixed":
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda tick: 0.95**tick)
        train = functools.partial(train, scaler=scaler, scheduler=scheduler)
        declared = {"scaler": scaler, "scheduler": scheduler, "clip_norm": 0.1}
    seen: Watch = watch(model, optimizer, accumulation_steps=SIZE, epochs=config.epochs, **declared)
    with seen:
        reported = train(model, optimizer, batches, SIZE, config.epochs)
    return Examined(reported, seen, seen.findings(reported=reported))


def _compiled(loop: Loop, *, broken: bool) -> Callable[..., list[float]]:
    """The loop, made of its source text."""
    names = dict(globals())
    name = loop.train.__name__
    exec(compile("from __future__ import annotations\n" + loop.source(broken=broken), f"{name}.py", "exec"), names)
    return names[name]
