"""Estimated sources, whatever estimator they come from, and the covariance that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rislab.data.geometry import ArrayGeometry
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError


@runtime_checkable
class Predictor(Protocol):
    """Whatever predicts covariances from measurements, such as a trained network."""

    def predict(self, batch: SceneBatch) -> Tensor:
        """Factor of the covariance of each scene, [B,N,C], complex, without gradients."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimated sources in K' slots a scene.

    Args:
        azimuth: [B,K'], real, radians.
        elevation: [B,K'], real, radians.
        range: [B,K'], real, metres.
        power: [B,K'], real, ≥ 0.
        active: [B,K'], bool; slots that hold a source.
    """

    azimuth: Tensor
    elevation: Tensor
    range: Tensor
    power: Tensor
    active: Tensor

    def __len__(self) -> int:
        return self.azimuth.shape[0]

    @staticmethod
    def cat(parts: Sequence[Estimate]) -> Estimate:
        """Join estimates of one number of slots along the scene axis."""
        names = [field.name for field in fields(Estimate)]
        return Estimate(*(torch.cat([part.__dict__[name] for part in parts]) for name in names))

    def check_finite(self) -> None:
        """Raise InputError if an active estimate is not at a finite place."""
        places = torch.stack([self.azimuth, self.elevation, self.range], dim=-1)
        if not bool(torch.isfinite(places[self.active]).all()):
            raise InputError("an active estimate holds NaN or infinity; allowed: finite values, or an inactive slot")

    def steering(self, array: ArrayGeometry) -> Tensor:
        """A, steering vectors [B,N,K'] in the dtype of `array`; inactive columns are 0."""
        places = (axis.to(array.elements) for axis in (self.azimuth, self.elevation, self.range))
        vectors = torch.where(self.active.unsqueeze(-1), array.steering(*places), 0)  # [B, K', N]
        return vectors.mT

    def factor(self, array: ArrayGeometry) -> Tensor:
        """Factor A P^(1/2), [B,N,K'], of the covariance of the estimated sources, scaled to trace N.

        Powers count in proportion to each other; without a source the factor is zero.
        """
        power = torch.where(self.active, self.power.clamp(min=0), 0).to(array.elements)
        total = power.sum(-1, keepdim=True)
        share = power / torch.where(total > 0, total, 1.0)
        return self.steering(array) * (array.count * share).sqrt().unsqueeze(-2)


def check_estimate(estimate: object, scenes: int) -> None:
    """Raise InputError for anything but an Estimate of so many scenes whose active places are finite."""
    if not isinstance(estimate, Estimate):
        raise InputError(f"estimate is a {type(estimate).__name__}; allowed: an Estimate, such as sparse() returns")
    if len(estimate) != scenes:
        raise InputError(f"estimate has {len(estimate)} scenes, and the batch {scenes}; allowed: the same number")
    estimate.check_finite()
