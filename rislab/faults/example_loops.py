"""Four training loops as people write them, each with a fault to be edited into it: what the checkup says of either.

Each trains the network of this lab on a few scenes, in windows of micro-batches. None of them knows that it is watched.
"""

from __future__ import annotations

import difflib
import functools
import html
import importlib.util
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import Watch, watch
from rislab.data.covariance import nmse
from rislab.data.scenes import SceneBatch, SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import check_choice, check_number
from rislab.model.network import CovarianceNet

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
        before, after = self.source().splitlines(), self.source(broken=True).splitlines()
        changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[0] in "-+"]
        # Without the names of the files.
        return "\n".join(changed[2:])


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
        check_number("epochs", self.epochs, 1, 50, integer=True)
        check_number("seed", self.seed, 0, 2**31 - 1, integer=True)


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


@dataclass(frozen=True)
class Pair:
    """A loop as it should be and with its fault, both None where the package that it needs is not installed."""

    name: str
    correct: Examined | None
    broken: Examined | None

    @property
    def missing(self) -> str:
        """What to install, or ""."""
        return "" if self.correct else f"{LOOPS[self.name].needs} is not installed: pip install 'rislab[loops]'"

    @property
    def named(self) -> bool:
        """Whether one of the first two findings names the fault."""
        found = self.broken.findings[:2] if self.broken else []
        return any(LOOPS[self.name].fault in (finding.name, *finding.aliases) for finding in found)

    def row(self) -> str:
        """One line: the last NMSE that was reported, and the faults found, without the edit and with it."""
        if self.correct is None or self.broken is None:
            return f"{self.name:<12} {self.missing}"
        told = [
            f"NMSE {one.reported[-1]:.4f}, {', '.join(f.name for f in one.findings.faults) or 'no fault'}"
            for one in (self.correct, self.broken)
        ]
        return f"{self.name:<12} {told[0]:<24} {told[1]}"

    def _repr_html_(self) -> str:
        if self.correct is None or self.broken is None:
            return f"<p>not run: {self.missing}</p>"
        loop = LOOPS[self.name]
        source = html.escape(textwrap.dedent(loop.source()).strip())
        mono = "style='font-size:12px;line-height:1.35;margin:4px 0;white-space:pre-wrap'"
        return (
            f"<details><summary>the loop</summary><pre {mono}>{source}</pre></details>"
            f"<p><b>As it should be.</b></p>{self.correct._repr_html_()}"
            f"<p><b>With an edit</b> ({loop.fault}):</p><pre {mono}>{html.escape(loop.diff())}</pre>"
            f"{self.broken._repr_html_()}"
        )


def pair(name: str, config: LoopsConfig | None = None) -> Pair:
    """Run one of the loops as it should be and with its fault, if its package is there; see examined()."""
    check_choice("name", name, LOOPS)
    if LOOPS[name].missing:
        return Pair(name, None, None)
    return Pair(name, examined(name, config), examined(name, config, broken=True))


def _compiled(loop: Loop, *, broken: bool) -> Callable[..., list[float]]:
    """The loop, made of its source text."""
    names = dict(globals())
    name = loop.train.__name__
    exec(compile("from __future__ import annotations\n" + loop.source(broken=broken), f"{name}.py", "exec"), names)
    return names[name]
