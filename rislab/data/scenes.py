"""A batch of scenes: what the antennas received, and the truth behind it.

M antennas receive K sources only through a known channel H and a reconfigurable intelligent surface (RIS) of N elements
whose phase profile c_l changes with every snapshot l = 1 … L: y_l = H diag(c_l) A s_l + n_l. data.simulation draws it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rislab.data.scene_config import SceneConfig
from rislab.errors import InputError


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """B scenes: what the base station receives and the truth behind it.

    Tensors are complex64 and float32 as simulated. Inactive slots hold a valid position and power 0. With impairments
    `codes` and `channel` are what the receiver assumes, and the snapshots come from others.

    Args:
        snapshots: y, [B,L,M], complex.
        codes: phase profiles c, [B,L,N], complex, of modulus 1.
        channel: H, [B,M,N], complex.
        symbols: s, [B,L,K], complex.
        azimuth: [B,K], radians.
        elevation: [B,K], radians.
        range: [B,K], metres.
        power: [B,K], real, ≥ 0; they sum to N.
        active: [B,K], bool; slots that hold a source.
        noise_power: σ², [B], real; of one antenna.
        snr_db: [B], dB; asked for, at the antennas.
        realised_snr_db: [B], dB; of the noise that was drawn.
        index: [B], int64; number of the scene within its split.
        config: that the scenes are drawn from.
    """

    snapshots: Tensor
    codes: Tensor
    channel: Tensor
    symbols: Tensor
    azimuth: Tensor
    elevation: Tensor
    range: Tensor
    power: Tensor
    active: Tensor
    noise_power: Tensor
    snr_db: Tensor
    realised_snr_db: Tensor
    index: Tensor
    config: SceneConfig

    def __len__(self) -> int:
        return self.snapshots.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by field name."""
        return {field.name: self.__dict__[field.name] for field in dataclasses.fields(self) if field.name != "config"}

    def _map(self, change: Any) -> SceneBatch:
        return SceneBatch(**{name: change(tensor) for name, tensor in self.tensors().items()}, config=self.config)

    def __getitem__(self, which: int | slice | Sequence[int] | Tensor) -> SceneBatch:
        """Scenes by number, slice, list, index tensor or mask, as a batch also for a single number."""
        rows = rows_of(self, which)
        return self._map(lambda tensor: tensor[rows])

    def __iter__(self) -> Iterator[SceneBatch]:
        return (self[number] for number in range(len(self)))

    @staticmethod
    def cat(batches: Sequence[SceneBatch]) -> SceneBatch:
        """Join batches of one configuration along the scene axis."""
        if not batches:
            raise InputError("batches is empty; allowed: at least one batch to join")
        first = batches[0]
        if any(batch.config != first.config for batch in batches):
            raise InputError("batches have different scene configurations; allowed: one configuration")
        parts = [batch.tensors() for batch in batches]
        return SceneBatch(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]}, config=first.config)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> SceneBatch:
        """The batch on a device, and in the real dtype float32 or float64 (complex tensors follow)."""

        def move(tensor: Tensor) -> Tensor:
            if dtype is None or not (tensor.is_floating_point() or tensor.is_complex()):
                return tensor.to(device=device)
            return tensor.to(device=device, dtype=dtype.to_complex() if tensor.is_complex() else dtype)

        return self._map(move)

    def steering(self, dtype: torch.dtype | None = None) -> Tensor:
        """A, unit-norm steering vectors of the true positions on the nominal surface, [B,N,K]; inactive columns are 0.

        Args:
            dtype: real dtype to compute in; that of the batch by default.
        """
        real = dtype or self.azimuth.dtype
        array = self.config.array(dtype=real, device=self.azimuth.device)
        vectors = array.steering(self.azimuth.to(real), self.elevation.to(real), self.range.to(real))  # [B, K, N]
        return (vectors * self.active.unsqueeze(-1)).transpose(-1, -2)

    def factor(self, dtype: torch.dtype | None = None) -> Tensor:
        """A P^(1/2), [B,N,K]: a factor of the true covariance, rebuilt from 20 numbers a scene."""
        vectors = self.steering(dtype)
        return vectors * self.power.to(vectors.real.dtype).sqrt().unsqueeze(-2)

    def covariance(self, dtype: torch.dtype | None = None) -> Tensor:
        """R = A P A^H, [B,N,N], Hermitian, rank K, trace N; computed anew at each call, never stored."""
        factor = self.factor(dtype)
        return factor @ factor.mH

    def received_fields(self, columns: Tensor) -> Tensor:
        """What the antennas receive in each snapshot of fields on the surface, G_l x = H (c_l ⊙ x).

        Args:
            columns: x, [B,N,C], complex.

        Returns:
            [B,L,M,C], complex.
        """
        return received_fields(self.codes, self.channel, columns)

    def source_snr_db(self) -> Tensor:
        """Each source's own mean power at the antennas over σ², in dB, [B,K]; −inf for inactive slots.

        With impairments it is what the codes and the channel that the receiver assumes would give.
        """
        received = self.received_fields(self.steering()) * self.symbols.unsqueeze(-2)  # [B, L, M, K]
        mean_power = received.abs().square().mean(dim=(1, 2))
        return 10 * torch.log10(mean_power / self.noise_power.unsqueeze(-1))

    def check_finite(self) -> None:
        """Raise InputError naming the first scene that holds NaN or infinity."""
        for name, tensor in self.tensors().items():
            if name == "realised_snr_db" or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            # NaN and infinity survive a sum, so that good data need one pass only.
            if bool(torch.isfinite(tensor.sum())):
                continue
            good = torch.isfinite(tensor).reshape(len(self), -1).all(dim=1)
            if not bool(good.all()):
                place = int((~good).nonzero()[0, 0])
                raise InputError(
                    f"{name} of scene {place} (index {int(self.index[place])} of its split) holds NaN or infinity; "
                    "allowed: finite values"
                )

    def hashes(self) -> list[str]:
        """A digest of each scene, over the positions of its active sources: scenes that share them are the same."""
        places = torch.stack([self.azimuth, self.elevation, self.range], dim=-1).to("cpu", torch.float32)  # [B, K, 3]
        rows = [scene[active].numpy().tobytes() for scene, active in zip(places, self.active.cpu(), strict=True)]
        return [hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows]

    def projections(self) -> list[float]:
        """Two numbers of each tensor, the same but for rounding on every machine; other scenes have others.

        Its norm, and its product with the sequence cos 1, cos 2, … over the norm.
        """
        numbers = []
        plain = [torch.view_as_real(one) if one.is_complex() else one for one in self.tensors().values()]
        sequence = torch.arange(1, max(one.numel() for one in plain) + 1, dtype=torch.float64).cos()
        for tensor in plain:
            flat = tensor.detach().cpu().double().flatten()
            norm = float(flat.norm())
            numbers += [norm, float(flat @ sequence[: len(flat)]) / (norm or 1.0)]
        return [float(f"{number:.7g}") for number in numbers]

    def fingerprint(self) -> str:
        """A digest of everything in the batch, bit by bit; another kind of processor may round otherwise."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in self.tensors().values():
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        return digest.hexdigest()


def rows_of(batch: Sized, which: Any) -> Any:
    """What selects rows of a batch; a single number becomes a slice, so that what it selects is a batch, too."""
    if not isinstance(which, int | np.integer):
        return which
    if not -len(batch) <= which < len(batch):
        raise IndexError(f"number {which} of a batch of {len(batch)}")
    return slice(which, which + 1 or None)


def received_fields(codes: Tensor, channel: Tensor, columns: Tensor) -> Tensor:
    """SceneBatch.received_fields() [B,L,M,C] of codes c [B,L,N], a channel H [B,M,N] and fields x [B,N,C]."""
    if channel.shape[-2] <= 2 * columns.shape[-1]:
        # With few antennas G_l is the smaller product: three times faster with 48 columns at 16 antennas.
        sensing = codes.unsqueeze(2) * channel.unsqueeze(1)  # [B, L, M, N]
        return (sensing.flatten(1, 2) @ columns).unflatten(1, sensing.shape[1:3])
    reflected = codes.unsqueeze(2) * columns.mT.unsqueeze(1)  # [B, L, C, N]
    # Snapshots folded into rows: a broadcast channel would be copied for each.
    received = reflected.flatten(1, 2) @ channel.mT  # [B, L·C, M]
    return received.unflatten(1, reflected.shape[1:3]).mT
