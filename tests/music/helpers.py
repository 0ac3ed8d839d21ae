"""What several tests of this room need."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rislab.data.scenes import SceneBatch
from rislab.music.estimate import Estimate


def counted(batch: SceneBatch) -> Tensor:
    """True number of sources of each scene, [B]."""
    return batch.active.sum(-1)


def truth(batch: SceneBatch) -> Estimate:
    """The sources of the scenes as an estimate."""
    return Estimate(batch.azimuth, batch.elevation, batch.range, batch.power, batch.active)


def measured_again(batch: SceneBatch, seed: int = 0) -> SceneBatch:
    """The scenes with signal, noise power and noise computed anew in double precision from everything else."""
    batch = batch.to(dtype=torch.float64)
    signal = torch.einsum("bmn,bln,bnk,blk->blm", batch.channel, batch.codes, batch.steering(), batch.symbols)
    noise_power = signal.abs().square().mean((1, 2)) / 10 ** (batch.snr_db / 10)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(signal.shape, generator=generator, dtype=torch.complex128)  # E|n|² = 1
    snapshots = signal + noise * noise_power.sqrt()[:, None, None]
    return dataclasses.replace(batch, snapshots=snapshots, noise_power=noise_power)
