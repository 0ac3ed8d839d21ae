"""Training on several processes: each has its own scenes, and all of them take the same step.

    torchrun --nproc-per-node 2 -m rislab.cli train --preset full --folder runs/two

A window of K micro-batches on each of W processes is one window of K · W micro-batches: gradients are averaged once, at
the end of the window. Between its micro-batches nothing is exchanged.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rislab.data.scenes import SceneBatch
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.training import run_folder, streaming
from rislab.training.records import Record
from rislab.training.streaming_config import LearningConfig


def rank_and_world_size() -> tuple[int, int]:
    """Number of this process, from 0, and number of processes; torchrun sets both."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(device: str = "cpu") -> Iterator[None]:
    """Join the group of all processes within the block: by NCCL if they train on "cuda", by gloo on the CPU."""
    dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


class GradientSync(nn.Module):
    """A network whose gradients are averaged over all processes at the end of each window, and not before.

    Args:
        model: on its device.
        accumulation_steps: micro-batches in a window.
        micro_batches: in an epoch, whose last window may be a smaller one.
    """

    def __init__(self, model: nn.Module, accumulation_steps: int, micro_batches: int) -> None:
        super().__init__()
        self.averaging = DistributedDataParallel(model)
        self._window, self._epoch, self._position = accumulation_steps, micro_batches, 0

    def forward(self, *inputs: Tensor) -> Any:
        """That of the network; in training it counts the micro-batches of the epoch."""
        if not (self.training and torch.is_grad_enabled()):
            return self.averaging.module(*inputs)
        self._position = self._position % self._epoch + 1
        last = self._position % self._window == 0 or self._position == self._epoch
        # DistributedDataParallel decides in the forward whether the backward exchanges gradients.
        with contextlib.nullcontext() if last else self.averaging.no_sync():
            return self.averaging(*inputs)


class ShareConfig(LearningConfig):
    """A LearningConfig whose epochs are a process's share of the scenes."""

    @property
    def drawn(self) -> int:
        """Number of scenes of one process."""
        return self.scenes // rank_and_world_size()[1]

    def draw(self, epoch: int) -> SceneBatch:
        """This process's scenes of an epoch; all processes have equally many."""
        start = (epoch - 1) * self.scenes + rank_and_world_size()[0] * self.drawn
        return self.mixed(self.drawn, start=start)


def train_distributed(folder: Path | str, config: LearningConfig, model: CovarianceNet) -> Generator[Record]:
    """streaming.train_streaming() on all processes of a group; the first one writes the run folder.

    Args:
        folder: of a new run.
        config: `scenes` of an epoch are divided among the processes, `micro_batch` is that of each process.
        model: trained in place, alike on all.

    Yields:
        Records of this process.

    Raises:
        InputError: for a folder that holds a run, which cannot be resumed here, and for a number of scenes that is no
            multiple of the number of processes.
    """
    rank, world = rank_and_world_size()
    if config.scenes % world:
        raise InputError(f"scenes is {config.scenes}; allowed: a multiple of {world}, the number of processes")
    if (Path(folder) / run_folder.CHECKPOINT).exists():
        raise InputError(f"run {folder} was begun; allowed: a new folder, where several processes train")
    share = ShareConfig(**vars(config))
    micro_batches = math.ceil(share.drawn / share.training().micro_batch)
    model.to(config.device)
    synced = GradientSync(model, config.accumulation_steps, micro_batches)
    dist.barrier()
    if rank == 0:
        yield from streaming.train_streaming(folder, share, synced)
    else:
        yield from streaming.train_epochs(share, synced)
