"""State of a run at a step boundary, and the checkpoint that holds it."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rislab import files
from rislab.errors import InputError
from rislab.rng import TorchRandomState
from rislab.training.config import TrainConfig
from rislab.training.records import Counters

FORMAT = "rislab checkpoint 1"
MAGIC = b"rislab checkpoint\n"
PARTS = {"config", "model", "optimizer", "scaler", "scheduler", "ema", "randomness", "events", "position"}


class EventCounter:
    """Counts forwards, backwards and optimiser steps as they happen, through public hooks.

    The events themselves are counted, not lines of the loop: a loop that never calls backward has 0 backwards.
    """

    def __init__(self) -> None:
        self.events = {"forwards": 0, "backwards": 0, "steps_applied": 0}
        self._gradients: dict[Tensor, int] = {}

    @contextmanager
    def attached(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Count within the block."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._gradients = dict.fromkeys(trainable, self.events["backwards"])
        handles = [
            model.register_forward_hook(self._on_forward),
            optimizer.register_step_post_hook(self._on_step),
            *(parameter.register_post_accumulate_grad_hook(self._on_gradient) for parameter in trainable),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _on_forward(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        self.events["forwards"] += module.training

    def _on_gradient(self, parameter: Tensor) -> None:
        # A backward reaches each parameter once at most, and not all of them if something is detached.
        self._gradients[parameter] += 1
        self.events["backwards"] = max(self.events["backwards"], self._gradients[parameter])

    def _on_step(self, *unused: Any) -> None:
        self.events["steps_applied"] += 1


@dataclass
class TrainProgress:
    """Where a run stands."""

    samples: int  # scenes of the training set
    epoch: int = 1  # the present one, from 1
    window: int = 0  # windows of this epoch that are done
    step: int = 0  # windows of the run that are done
    loss_sum: float = 0.0  # sum over the scenes of this epoch's windows of their raw loss
    loss_samples: int = 0  # scenes in that sum
    skipped: int = 0  # windows of the run that ended without a step of the optimiser

    def advance(self, loss: float, samples: int, applied: bool) -> None:
        """Note that one more window is done."""
        self.step += 1
        self.window += 1
        self.loss_sum += loss * samples
        self.loss_samples += samples
        self.skipped += int(not applied)

    def next_epoch(self) -> None:
        """Note that an epoch is done and summarised."""
        self.epoch += 1
        self.window, self.loss_sum, self.loss_samples = 0, 0.0, 0


@dataclass
class TrainState:
    """Everything that a run needs to go on from a step boundary as if it had never stopped.

    Build it with begin(); fit(..., resume=state) advances it in place, so that its owner can save() it between two
    records.

    Args:
        config: of the run.
        model: in training, on the device and in the dtype of the config.
        optimizer: with a group for the backbone and one for the head.
        scaler: of gradients in fp16; switched off elsewhere.
        scheduler: of the learning rate, once a step.
        ema: averaged weights, or None.
        randomness: state of torch's generators.
        counter: of forwards, backwards, steps and ticks.
        progress: epoch, step, and place in the epoch.
    """

    config: TrainConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    scheduler: LambdaLR
    ema: AveragedModel | None
    randomness: TorchRandomState
    counter: EventCounter
    progress: TrainProgress

    @classmethod
    def begin(cls, model: nn.Module, samples: int, config: TrainConfig) -> TrainState:
        """The state before the first step, with `model` moved to the device and dtype of `config`.

        Args:
            model: to be trained, in place.
            samples: number of training scenes; with the config it fixes the length of the schedule.
            config: see TrainConfig.

        Raises:
            InputError: if the micro-batch is larger than the set, or nothing can be trained.
        """
        if samples < 1:
            raise InputError("the set has no scenes; allowed: at least one")
        if config.micro_batch > samples:
            raise InputError(
                f"micro_batch is {config.micro_batch}, and the set has {samples} scenes; allowed: 1..{samples}"
            )
        device = torch.device(config.device)
        for name, parameter in model.named_parameters():
            if parameter.is_complex():
                raise InputError(f"{name} of the model is complex; allowed: real parameters")
        model.to(device=device, dtype=config.dtype)
        groups = parameter_groups(model)
        if not groups:
            raise InputError("model has no trainable parameter; allowed: at least one that requires a gradient")
        optimizer = _optimizer(groups, config)
        windows = math.ceil(math.ceil(samples / config.micro_batch) / config.accumulation_steps)
        scheduler = LambdaLR(optimizer, _learning_rate_factor(config, config.epochs * windows))
        averaging = None if config.ema is None else get_ema_multi_avg_fn(config.ema)
        return cls(
            config=config,
            model=model,
            optimizer=optimizer,
            scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
            scheduler=scheduler,
            ema=None if averaging is None else AveragedModel(model, multi_avg_fn=averaging),
            randomness=TorchRandomState(config.seed, device),
            counter=EventCounter(),
            progress=TrainProgress(samples),
        )

    def update_average(self) -> None:
        """Fold the present weights into the averaged ones, if there are any."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def counters(self) -> Counters:
        """Events since the start of the run."""
        events = self.counter.events
        return Counters(
            forwards=events["forwards"],
            backwards=events["backwards"],
            steps_applied=events["steps_applied"],
            steps_skipped=self.progress.skipped,
            scheduler_ticks=self.scheduler.last_epoch,
        )

    def save(self, path: Path | str) -> None:
        """Write a checkpoint, atomically; a reader finds the old one or this one."""
        plain = {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "randomness": self.randomness.to_plain(),
            "events": self.counter.events,
            "position": asdict(self.progress),
        }
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        content = buffer.getvalue()
        files.replace(Path(path), MAGIC + zlib.crc32(content).to_bytes(4, "big") + content)

    def load(self, path: Path | str) -> None:
        """Take over a checkpoint of the same configuration, data size and model; nothing is changed if it does not fit.

        Raises:
            InputError: for a file that is missing, damaged, not a checkpoint, or of another configuration or model.
        """
        plain = read_checkpoint(path)
        try:
            self._check_fits(plain, path)
            self._take(plain)
        except InputError:
            raise
        # ArithmeticError: a number of a random state that is too large.
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"checkpoint {path} does not fit; allowed: a file that a rislab run wrote") from error

    def _take(self, plain: dict[str, Any]) -> None:
        # First: its content is checked only while it is loaded.
        self.randomness.load_plain(plain["randomness"])
        self.model.load_state_dict(plain["model"])
        self.optimizer.load_state_dict(plain["optimizer"])
        self.scaler.load_state_dict(plain["scaler"])
        self.scheduler.load_state_dict(plain["scheduler"])
        if self.ema is not None:
            self.ema.load_state_dict(plain["ema"])
        self.counter.events = plain["events"]
        self.progress = TrainProgress(**plain["position"])

    def _check_fits(self, plain: dict[str, Any], path: Path | str) -> None:
        if missing := PARTS - set(plain):
            raise InputError(
                f"checkpoint {path} lacks {', '.join(sorted(missing))}; allowed: a file that a rislab run wrote"
            )
        for name, value in self.config.to_dict().items():
            stored = plain["config"].get(name)
            if stored != value:
                raise InputError(
                    f"{name} is {value!r}, and {path} was written with {stored!r}; allowed: the same value"
                )
        samples, stored = self.progress.samples, plain["position"]["samples"]
        if stored != samples:
            raise InputError(
                f"the set has {samples} scenes, and {path} was written for {stored}; allowed: the same set"
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        stored_shapes = {name: tuple(tensor.shape) for name, tensor in plain["model"].items()}
        for name in sorted(shapes.keys() | stored_shapes.keys()):
            if shapes.get(name) != stored_shapes.get(name):
                raise InputError(
                    f"{name} of the model has shape {shapes.get(name)}, and {stored_shapes.get(name)} in {path}; "
                    "allowed: a checkpoint of the same model, and of the same version where its design has changed"
                )


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Content of a checkpoint file; runs no code from it.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"checkpoint {path} could not be read: {error.strerror}") from error
    head = len(MAGIC)
    if raw[:head] != MAGIC:
        raise InputError(f"checkpoint {path} was not written by rislab; allowed: a file that a rislab run wrote")
    content = raw[head + 4 :]
    if zlib.crc32(content).to_bytes(4, "big") != raw[head : head + 4]:
        raise InputError(
            f"checkpoint {path} is truncated or damaged (its checksum does not match); allowed: a complete file"
        )
    try:
        # torch does not compress. A compressed or overlapping part may unpack to any size and is refused.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(part.file_size for part in archive.infolist()) > len(content):
                raise ValueError("its parts are larger than the file")
        plain = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything; weights_only keeps it from running code
        raise InputError(f"checkpoint {path} holds more than plain data, and is not loaded") from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise InputError(f"checkpoint {path} has another format than {FORMAT!r}; allowed: that format")
    return plain


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by group: "head" are those under model.head, "backbone" all others; no empty group."""
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["head" if name.split(".")[0] == "head" else "backbone"].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


def _optimizer(groups: dict[str, list[nn.Parameter]], config: TrainConfig) -> torch.optim.Optimizer:
    rates = {"backbone": config.lr_backbone, "head": config.lr_head}
    named = [{"params": parameters, "lr": rates[name], "name": name} for name, parameters in groups.items()]
    # Fused steps are several times faster, but skip a step inside the optimiser, where the loop does not see it.
    fused = config.precision != "fp16"
    if config.optimiser == "sgd":
        return torch.optim.SGD(named, fused=fused)
    # A short second-moment memory: a run of some hundred steps never fills the usual 1 000.
    kind = torch.optim.Adam if config.optimiser == "adam" else torch.optim.AdamW
    return kind(named, betas=(0.9, 0.95), fused=fused)


def _learning_rate_factor(config: TrainConfig, total: int) -> Any:
    def factor(tick: int) -> float:
        warm = min(1.0, (tick + 1) / config.warmup) if config.warmup > 0 else 1.0
        if config.schedule == "constant":
            return warm
        progress = min(tick / max(total - 1, 1), 1.0)
        return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)

    return factor
