"""Scenes: SceneConfig says what may happen, SceneBatch holds what happened.

M antennas receive K sources only through a known channel H and a reconfigurable intelligent surface (RIS) of N elements
whose phase profile c_l changes with every snapshot l = 1 … L: y_l = H diag(c_l) A s_l + n_l. data.simulation draws it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rislab.config import Config, choice, integer, interval, number
from rislab.data.geometry import WAVEFRONTS, ArrayGeometry
from rislab.data.grid import Grid
from rislab.errors import InputError, check_choice, check_number

SYMBOLS = ("varying", "constant", "coherent")
CODES = ("random", "dft", "hadamard")
DFT_BEAMS = ("broadside", "spread")
POWER_LAWS = ("equal", "free-space")


Interval = tuple[float, float]


PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "classroom": {"ris_shape": (6, 6), "antennas": 8, "sources": (1, 3), "range": (0.5, 3.0), "snr_db": (0.0, 20.0)},
}


@dataclass(frozen=True)
class SceneConfig(Config):
    """Everything that a scene is drawn from; in metres and radians.

    Intervals are (smallest, largest), drawn uniformly; a single number means an interval of one value. Powers always
    sum to N. DFT beams beyond N repeat. `ris_shape` is (rows, columns) = (N_v, N_h), N = N_v·N_h elements half a
    wavelength apart; columns run along the azimuth axis.

    Example:
        >>> config = SceneConfig.preset("classroom", snr_db=10)
        >>> config.elements, config.snr_db
        (36, (10, 10))
    """

    wavelength: float = number(0.3, 1e-6, 1e6, "λ", unit="m")
    ris_shape: tuple[int, int] = (12, 12)
    antennas: int = integer(16, 1, 4096, "M, half-wavelength linear array of the base station")
    snapshots: int = integer(16, 1, 65536, "L, each with a phase profile of its own")
    sources: tuple[int, int] = interval((1, 5), 1, 64, "K, number of active sources", integer=True)
    azimuth: tuple[float, float] = interval(
        (-math.pi / 3, math.pi / 3), -math.pi / 2, math.pi / 2, "of the sources", unit="rad"
    )
    elevation: tuple[float, float] = interval(
        (-math.pi / 6, math.pi / 6), -math.pi / 2, math.pi / 2, "of the sources", unit="rad"
    )
    range: tuple[float, float] = interval(
        (0.5, 10.0), 1e-3, 1e9, "of the sources from the centre of the surface", unit="m"
    )
    snr_db: tuple[float, float] = interval(
        (-5.0, 20.0), -100.0, 200.0, "mean signal over noise power at the antennas", unit="dB"
    )
    separation: float = number(0.0, 0.0, math.pi, "smallest angle between two sources; 0 asks for none", unit="rad")
    wavefront: str = choice("spherical", WAVEFRONTS, "of the world: exact, second order, or far field")
    symbols: str = choice("varying", SYMBOLS, "new for each snapshot, one for all, or one waveform with fixed gains")
    power_law: str = choice("equal", POWER_LAWS, "powers of the sources: equal, or proportional to 1/r²")
    rician_factor: float = number(0.0, 0.0, 1e9, "κ of the channel, linear; 0 is Rayleigh")
    codes: str = choice("random", CODES, "phase profiles of the surface")
    dft_beams: str = choice("broadside", DFT_BEAMS, "which L of the N DFT beams: nearest broadside, or spread evenly")
    phase_bits: int | None = integer(None, 1, 16, "phases rounded to 2^bits levels; none is continuous", optional=True)
    phase_error: float = number(0.0, 0.0, math.pi, "standard deviation of the phases actually applied", unit="rad")
    gain_jitter: float = number(0.0, 0.0, 1.0, "relative standard deviation of the elements' gains")
    dead_elements: float = number(0.0, 0.0, 0.9, "probability that an element reflects nothing")
    position_jitter: float = number(0.0, 0.0, 1e6, "standard deviation of an element's coordinates", unit="m")
    channel_error: float = number(0.0, 0.0, 10.0, "variance of the error of the known H, over an entry's power")

    def check(self) -> None:
        """Refuse a surface that is no pair of integers, and elements that stray further than a wavelength."""
        object.__setattr__(
            self, "ris_shape", tuple(self.ris_shape) if isinstance(self.ris_shape, list) else self.ris_shape
        )
        if not isinstance(self.ris_shape, tuple) or len(self.ris_shape) != 2:
            raise InputError(f"ris_shape is {self.ris_shape!r}; allowed: a pair (rows, columns) of whole numbers")
        for side in self.ris_shape:
            check_number("ris_shape", side, 1, 256, integer=True)
        check_number("position_jitter", self.position_jitter, 0.0, self.wavelength)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> SceneConfig:
        """The preset "classroom" (6×6, M = 8, fast) or "full" (12×12, M = 16), with fields changed by keyword."""
        check_choice("preset", name, PRESETS)
        return cls.from_dict({**PRESETS[name], **changes})

    @property
    def elements(self) -> int:
        """N, the number of RIS elements."""
        return self.ris_shape[0] * self.ris_shape[1]

    def array(self, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> ArrayGeometry:
        """The RIS as its steering object, without impairments."""
        return ArrayGeometry.surface(self.ris_shape, self.wavelength, self.wavefront, dtype=dtype, device=device)

    def grid(self, shape: tuple[int, int, int], *, range: Interval | None = None, spacing: str = "uniform") -> Grid:
        """Search grid over the field of view; see Grid.field_of_view(). `range` in metres narrows it in range."""
        area = (self.azimuth, self.elevation, range or self.range)
        return Grid.field_of_view(self.array(dtype=torch.float64), *area, shape, spacing=spacing)


def preset(default: str) -> Any:
    """A field that holds the name of a preset."""
    return choice(default, tuple(PRESETS), "scenes: classroom (6×6 surface) or full (12×12)")


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
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise IndexError(f"scene {which} of a batch of {len(self)}")
            which = slice(which, which + 1 or None)
        return self._map(lambda tensor: tensor[which])

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
            # One pass, and in all but broken data the only one: NaN and infinity survive a sum.
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

    def fingerprint(self) -> str:
        """A digest of everything in the batch."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in self.tensors().values():
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        return digest.hexdigest()


def received_fields(codes: Tensor, channel: Tensor, columns: Tensor) -> Tensor:
    """SceneBatch.received_fields() on plain tensors.

    Args:
        codes: c, [B,L,N], complex.
        channel: H, [B,M,N], complex.
        columns: x, [B,N,C], complex.

    Returns:
        [B,L,M,C], complex.
    """
    reflected = codes.unsqueeze(2) * columns.mT.unsqueeze(1)  # [B, L, C, N]
    # Snapshots folded into rows: a broadcast channel would be copied for each.
    received = reflected.flatten(1, 2) @ channel.mT  # [B, L·C, M]
    return received.unflatten(1, reflected.shape[1:3]).mT
