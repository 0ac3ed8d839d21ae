"""How to train: the configuration of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rislab.config import Config, choice, device, integer, number
from rislab.errors import InputError
from rislab.model.curriculum import CURRICULA

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp64", "fp32", "bf16", "fp16")
OPTIMISERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class TrainConfig(Config):
    """How to train.

    A window is the `accumulation_steps` micro-batches of one optimiser step. An epoch that holds fewer is one window.
    "sgd" has no momentum. The first step of a warm-up has 1/warmup of the peak rate, never 0; "cosine" falls to 1 % of
    the peak at the last step. "bf16" and "fp16" are autocast of the real-valued layers, "fp16" with a gradient scaler.
    """

    epochs: int = integer(30, 1, 10**9, "passes over the data")
    micro_batch: int = integer(64, 1, 10**9, "scenes in one forward")
    accumulation_steps: int = integer(1, 1, 10**9, "micro-batches of one optimiser step")
    precision: str = choice("fp32", PRECISIONS, "number format of the network's real-valued layers")
    optimiser: str = choice("adam", OPTIMISERS, "algorithm of the optimiser")
    lr_head: float = number(5e-3, 0.0, 1e6, "peak learning rate of the head", exclusive=True)
    lr_backbone: float = number(5e-4, 0.0, 1e6, "peak learning rate of the backbone", exclusive=True)
    warmup: int = integer(5, 0, 10**9, "optimiser steps of linear warm-up")
    schedule: str = choice("cosine", SCHEDULES, "learning rate after the warm-up")
    clip_norm: float | None = number(
        1.0, 0.0, 1e30, "largest gradient norm over all parameters; none clips nothing", exclusive=True, optional=True
    )
    ema: float | None = number(
        0.9,
        0.0,
        1.0 - 1e-9,
        "decay of the averaged weights, scored beside the raw ones; none averages none",
        optional=True,
    )
    curriculum: str = choice("no-curriculum", CURRICULA, "terms of the loss: the NMSE alone, or three phases")
    blend: float = number(0.0, 0.0, 0.999, "share β of the sample covariance in R_test")
    device: str = device()
    seed: int = integer(0, 0, 2**63 - 1, "of the data order and of torch's generators")

    def check(self) -> None:
        """Refuse bf16 on a GPU that does not support it."""
        if self.precision != "bf16" or not self.device.startswith("cuda"):
            return
        import torch

        if not torch.cuda.is_bf16_supported():
            raise InputError(f"precision is 'bf16', which {self.device} does not support; allowed: fp64, fp32, fp16")

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of weights and data: float64 for "fp64", else float32."""
        import torch

        return torch.float64 if self.precision == "fp64" else torch.float32
