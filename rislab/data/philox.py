"""Random numbers that are a pure function of (seed, split, section, scene): one Philox counter generator a split."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")
# Counter ranges of one split: a section's draws never depend on the widths of the others.
SECTIONS = ("sources", "symbols", "noise", "channel", "codes", "impairments")


def raw_words(seed: int, split: str, section: str, start: int, count: int, width: int) -> np.ndarray:
    """The 64-bit words that scenes are made of, bit-identical on every machine.

    Each scene owns ⌈width/4⌉ counters (Philox gives four words for each); each section starts at its own multiple of
    2^192, so that none can run into another.

    Args:
        seed: 0 … 2^63 − 1.
        split: one of SPLITS.
        section: one of SECTIONS.
        start: number of the first scene, ≥ 0.
        count: number of scenes, ≥ 1.
        width: words for each scene, ≥ 1.

    Returns:
        [count,width], uint64.
    """
    blocks = -(-width // 4)
    counter = (SECTIONS.index(section) << 192) + start * blocks
    generator = np.random.Philox(key=seed + (SPLITS.index(split) << 64), counter=counter)
    return generator.random_raw(count * blocks * 4).reshape(count, blocks * 4)[:, :width]


@dataclass(frozen=True)
class SceneRandom:
    """Random numbers of the scenes start … start + count − 1 of a split."""

    seed: int  # 0 … 2^63 − 1
    split: str  # one of SPLITS
    start: int  # number of the first scene, ≥ 0
    count: int  # number of scenes, ≥ 1

    def words(self, section: str, width: int) -> RandomWords:
        """The words of a section, `width` for each scene."""
        return RandomWords(raw_words(self.seed, self.split, section, self.start, self.count, width))

    def part(self, rows: slice) -> SceneRandom:
        """The random numbers of some of the scenes."""
        return dataclasses.replace(self, start=self.start + rows.start, count=rows.stop - rows.start)


class RandomWords:
    """Numbers made from the words of some scenes, consumed from left to right.

    Args:
        words: [B,W], uint64, from raw_words().
    """

    def __init__(self, words: np.ndarray) -> None:
        self._halves = torch.from_numpy(words.astype("<u8", copy=False).view("<i4"))  # [B, 2W], int32
        self._used = 0

    def _take(self, words: int) -> Tensor:
        """The two halves of the next words, [B, 2·words]."""
        first, self._used = self._used, self._used + words
        return self._halves[:, 2 * first : 2 * self._used]

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) with 24 random bits, float32, [B, *shape]; one word each."""
        width = math.prod(shape)
        integers = self._take(width)[:, :width].bitwise_and(0xFFFFFF)
        return (integers * 2.0**-24).reshape(-1, *shape)

    def phases(self, *shape: int) -> Tensor:
        """Angles in [−π, π], float32, [B, *shape]; half a word each."""
        width = math.prod(shape)
        halves = self._take(-(-width // 2))[:, :width]
        return (halves * (math.pi * 2.0**-31)).reshape(-1, *shape)

    def complex_normal(self, *shape: int) -> Tensor:
        """CN(0, 1) by Box and Muller, complex64, [B, *shape]; one word each."""
        width = math.prod(shape)
        halves = self._take(width)
        # Radii from the first half and angles from the second: both are contiguous, which is twice as fast.
        # 31 bits and never 0, so that the logarithm is finite.
        uniform = halves[:, :width].bitwise_and(0x7FFFFFFF).to(torch.float32).add_(1.0).mul_(2.0**-31)
        radius = uniform.log_().neg_().clamp_(min=0.0).sqrt_()
        angle = halves[:, width:] * (math.pi * 2.0**-31)
        real = torch.cos(angle).mul_(radius)
        return torch.complex(real, angle.sin_().mul_(radius)).reshape(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), float32, [B, *shape]; one word each."""
        return self.complex_normal(*shape).real * math.sqrt(2.0)
