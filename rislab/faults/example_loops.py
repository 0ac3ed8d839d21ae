"""Four training loops as people write them, each with a fault to be edited into it, for the checkup to tell apart.

Each trains the network of this lab on a few scenes, in windows of micro-batches. No loop has a line for the checkup.
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
from rislab.config import Config, integer
from rislab.data.covariance import nmse
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import check_choice
from rislab.model.network import CovarianceNet

# 64 scenes in micro-batches of 8; accelerate divides by K, so that no window may be smaller than the others.
SCENES, MICRO_BATCH, SIZE = 64, 8, 4


def nmse_loss(model: nn.Module, batch: SceneBatch) -> Tensor:
    """NMSE of what a network predicts, mean over scenes."""
    return nmse(model(batch.snapshots, batch.codes, batch.channel), batch.factor()).mean()


def plain_loop(model: nn.Module, optimizer: Any, batches: Sequence[SceneBatch], size: int, epochs: int) -> list[float]:
    """Accumulation by hand: each micro-batch is weighed by its share of the window."""
    reported = []
    for _ in range(epochs):
        total = 0.0
        for first in range(0, len(batches), size):
            window = batches[first : first + size]
            samples = sum(map(len, window))
            optimizer.zero_grad()
            for batch in window:
                loss = nmse_loss(model, batch)
                (loss * len(batch) / samples).backward()
                total += loss.item() * len(batch)
            optimizer.step()
        reported.append(total / sum(map(len, batches)))
    return reported


def mixed_loop(
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
                loss = nmse_loss(model, batch)
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


def fabric_loop(model: Any, optimizer: Any, batches: Sequence[SceneBatch], size: int, epochs: int) -> list[float]:
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
                loss = nmse_loss(model, batch)
                lightning.backward(loss / size)
            total += loss.item()
            if last:
                optimizer.step()
                optimizer.zero_grad()
        reported.append(total / len(batches))
    return reported


def accelerated_loop(model: Any, optimizer: Any, batches: Sequence[SceneBatch], size: int, epochs: int) -> list[float]:
    """accelerate: accumulate() decides which step is one, and backward() divides by K."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=size)
    model, optimizer = accelerator.prepare(model, optimizer)
    reported = []
    for _ in range(epochs):
        total = 0.0
        for batch in batches:
            with accelerator.accumulate(model):
                loss = nmse_loss(model, batch)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            total += loss.item()
        reported.append(total / len(batches))
    return reported


@dataclass(frozen=True)
class Loop:
    """One of the loops."""

    train: Callable[..., list[float]]  # the function
    needs: str  # a package that must be installed, "" for none
    fault: str  # its name
    before: str  # text of the function that the edit replaces
    after: str  # text that the edit puts there

    @property
    def missing(self) -> bool:
        """Whether the package that it needs is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None

    def source(self, *, faulty: bool = False) -> str:
        """Its source text, with the fault or without."""
        text = inspect.getsource(self.train)
        return text.replace(self.before, self.after) if faulty else text

    def diff(self) -> str:
        """The edit, line by line."""
        before, after = self.source().splitlines(), self.source(faulty=True).splitlines()
        changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[0] in "-+"]
        # Without the names of the files.
        return "\n".join(changed[2:])


LOOPS = {
    "plain": Loop(plain_loop, "", "never divided", "(loss * len(batch) / samples).backward()", "loss.backward()"),
    "mixed": Loop(mixed_loop, "", "clipped before unscaling", "                scaler.unscale_(optimizer)\n", ""),
    "fabric": Loop(
        fabric_loop,
        "lightning_fabric",
        "zeroed per micro-batch",
        "            total += loss.item()\n            if last:\n                optimizer.step()\n    ",
        "            total += loss.item()\n            if last:\n                optimizer.step()\n",
    ),
    "accelerated": Loop(accelerated_loop, "accelerate", "divided twice", "backward(loss)", "backward(loss / size)"),
}


@dataclass(frozen=True)
class LoopsConfig(Config):
    """How the loops are run."""

    epochs: int = integer(3, 1, 50, "passes over 64 scenes")
    seed: int = integer(0, 0, 2**31 - 1, "of scenes and weights")


@dataclass(frozen=True)
class WatchedLoop:
    """What a loop reported, how it was watched, and what the checkup says of it."""

    reported: list[float]
    watch: Watch
    findings: Findings

    def _losses(self) -> str:
        return f"NMSE as reported, epoch by epoch: {', '.join(f'{value:.5g}' for value in self.reported)}"

    def _repr_html_(self) -> str:
        return f"<p>{self._losses()}</p>{self.findings._repr_html_()}"

    def __str__(self) -> str:
        return f"{self._losses()}\n{self.findings}"


def watch_loop(name: str, config: LoopsConfig | None = None, *, faulty: bool = False) -> WatchedLoop:
    """Run one of the loops under the checkup's watch.

    Args:
        name: of LOOPS.
        config: see LoopsConfig; its defaults if None.
        faulty: with its fault edited in.

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
    train, declared = _compiled(loop, faulty=faulty), {}
    if name == "mixed":
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda tick: 0.95**tick)
        train = functools.partial(train, scaler=scaler, scheduler=scheduler)
        declared = {"scaler": scaler, "scheduler": scheduler, "clip_norm": 0.1}
    observer: Watch = watch(model, optimizer, accumulation_steps=SIZE, epochs=config.epochs, **declared)
    with observer:
        reported = train(model, optimizer, batches, SIZE, config.epochs)
    return WatchedLoop(reported, observer, observer.findings(reported=reported))


@dataclass(frozen=True)
class LoopPair:
    """A correct loop and the loop with its fault; both are None if the package that it needs is not installed."""

    name: str
    correct: WatchedLoop | None
    faulty: WatchedLoop | None

    @property
    def missing(self) -> str:
        """What to install, or ""."""
        return "" if self.correct else f"{LOOPS[self.name].needs} is not installed: pip install 'rislab[loops]'"

    @property
    def named(self) -> bool:
        """Whether one of the first two findings names the fault."""
        first = self.faulty.findings[:2] if self.faulty else []
        return any(LOOPS[self.name].fault in (finding.name, *finding.aliases) for finding in first)

    def row(self) -> str:
        """One line: the last NMSE that was reported, and the faults found, without the edit and with it."""
        if self.correct is None or self.faulty is None:
            return f"{self.name:<12} {self.missing}"
        columns = [
            f"NMSE {one.reported[-1]:.5g}, {', '.join(f.name for f in one.findings.faults) or 'no fault'}"
            for one in (self.correct, self.faulty)
        ]
        return f"{self.name:<12} {columns[0]:<24} {columns[1]}"

    def _repr_html_(self) -> str:
        if self.correct is None or self.faulty is None:
            return f"<p>not run: {self.missing}</p>"
        loop = LOOPS[self.name]
        source = html.escape(textwrap.dedent(loop.source()).strip())
        mono = "style='font-size:12px;line-height:1.35;margin:4px 0;white-space:pre-wrap'"
        return (
            f"<details><summary>the loop</summary><pre {mono}>{source}</pre></details>"
            f"<p><b>As it should be.</b></p>{self.correct._repr_html_()}"
            f"<p><b>With an edit</b> ({loop.fault}):</p><pre {mono}>{html.escape(loop.diff())}</pre>"
            f"{self.faulty._repr_html_()}"
        )


def run_pair(name: str, config: LoopsConfig | None = None) -> LoopPair:
    """Run one of the loops as it should be and with its fault, if its package is there; see watch_loop()."""
    check_choice("name", name, LOOPS)
    if LOOPS[name].missing:
        return LoopPair(name, None, None)
    return LoopPair(name, watch_loop(name, config), watch_loop(name, config, faulty=True))


def _compiled(loop: Loop, *, faulty: bool) -> Callable[..., list[float]]:
    """The loop, made of its source text."""
    names, name = dict(globals()), loop.train.__name__
    source = "from __future__ import annotations\n" + loop.source(faulty=faulty)
    exec(compile(source, f"{name.removesuffix('_loop')}.py", "exec"), names)
    return names[name]
