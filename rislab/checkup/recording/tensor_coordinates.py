"""A few coordinates of a tensor, read where all of them would cost too much."""

from __future__ import annotations

import torch
from torch import Tensor

from rislab.checkup.recording.tensors import has_numbers

COORDINATES = 16


def few_coordinates(value: Tensor) -> Tensor:
    """Up to 16 coordinates spread over a real tensor of any shape, as float64 on the CPU."""
    with torch.no_grad():
        flat = value.detach().reshape(-1)
        return flat[:: max(1, len(flat) // COORDINATES)][:COORDINATES].double().cpu()


def is_readable(value: Tensor) -> bool:
    """Whether a tensor holds two real numbers or more, in memory that can be read."""
    return (
        value.is_floating_point()
        and value.layout is torch.strided
        and type(value) in (Tensor, torch.nn.Parameter)
        and value.numel() > 1
        and has_numbers(value)
    )


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of the angle between two vectors, 0 if one of them is 0."""
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths > 0 else 0.0
