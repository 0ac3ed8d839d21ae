"""Measurements from outside: snapshots, codes, channel and array of anyone, without a truth.

The model is that of data.scenes, y_l = H diag(c_l) A s_l + n_l, with a surface of any shape and codes of any modulus.
An ordinary array is the case H = I, c = 1. Positions are seen from the origin of the array's coordinates.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rislab.data import measurement_checks as checks
from rislab.data.geometry import ArrayGeometry
from rislab.data.grid import Grid
from rislab.data.scene_config import Interval, SceneConfig
from rislab.data.scenes import SceneBatch, received_fields, rows_of
from rislab.errors import InputError, check_choice

NEAREST = 0.2
# An element whose distance from a line or a plane is below this share of the aperture lies in it.
FLAT = 1e-6
SYMBOLS = ("varying", "constant")
# Sines of 30° and 70°, of the elevation of a plane's normal: below the first the plane is upright, above the second it
# lies, and between them it leans.
UPRIGHT, LYING = 0.5, 0.94
LEANING = (
    "the plane of the array leans, and its two sides look alike: a place may be the mirror image of the source; "
    "azimuth and elevation of one side tell them apart"
)
OFF_CENTRE = (
    "the origin of the coordinates lies farther from the middle of the elements than they span, and places are "
    "searched around it: take elements - elements.mean(axis=0), and places count from their middle"
)
_AROUND, _UP_AND_DOWN = (-math.pi, math.pi), (-math.pi / 2, math.pi / 2)
REAL = (
    "the snapshots are real, and tell no direction from its mirror image: of a recording take "
    "scipy.signal.hilbert(x, axis=0)"
)


@dataclass(frozen=True, eq=False)
class MeasurementModel:
    """What is assumed about the sources of a measurement, in the words of SceneConfig."""

    geometry: ArrayGeometry  # of the surface, or of the array where there is none
    azimuth: Interval  # (smallest, largest) that is searched, radians; equal ends are a known value
    elevation: Interval  # the same, radians
    range: Interval  # the same, metres
    # "varying" (a new waveform in each snapshot) or "constant" (one for all, such as a calibrated channel)
    symbols: str
    antennas: int  # M
    snapshots: int  # L

    @property
    def elements(self) -> int:
        """N, the number of elements."""
        return self.geometry.count

    @property
    def wavelength(self) -> float:
        """λ, metres."""
        return self.geometry.wavelength

    @property
    def wavefront(self) -> str:
        """Form of the waves; see ArrayGeometry."""
        return self.geometry.wavefront

    def array(self, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> ArrayGeometry:
        """The array as its steering object; in float32 if no dtype is given."""
        return self.geometry.to(device, dtype or torch.float32)

    def grid(self, shape: tuple[int, int, int], *, range: Interval | None = None, spacing: str = "uniform") -> Grid:
        """Search grid over the field of view; see Grid.field_of_view(). `range` in metres narrows it in range."""
        area = (self.azimuth, self.elevation, range or self.range)
        return Grid.field_of_view(self.array(dtype=torch.float64), *area, shape, spacing=spacing)


def unknown_axes(config: SceneConfig | MeasurementModel) -> tuple[bool, bool, bool]:
    """Which of azimuth, elevation and range are unknown: an axis of one value is known, a plane wave has no range."""
    azimuth, elevation, far = (high > low for low, high in (config.azimuth, config.elevation, config.range))
    return azimuth, elevation, far and config.wavefront != "planar"


def identifiable(config: SceneConfig) -> tuple[SceneConfig, str]:
    """The scenes with an angle that their surface cannot tell set to the middle of its axis, and a sentence about it.

    A line of elements, such as a surface of one row or of one column, tells only the angle to itself.

    Returns:
        The configuration itself and "" if both angles can be told, or one of them is known.

    Raises:
        InputError: for a surface of one element.
    """
    rows, columns = config.ris_shape
    if rows * columns == 1:
        raise InputError("ris_shape is (1, 1), and one element measures no direction; allowed: at least two elements")
    azimuth, elevation, _ = unknown_axes(config)
    if min(rows, columns) > 1 or not (azimuth and elevation):
        return config, ""
    name, line = ("elevation", "row") if rows == 1 else ("azimuth", "column")
    low, high = getattr(config, name)
    middle = (low + high) / 2
    sentence = (
        f"a surface of one {line} does not tell azimuth from elevation: {name} is {math.degrees(middle):g}° and known"
    )
    return config.changed(**{name: middle}), sentence


class Measurement:
    """B measurements of one array; sparse(), polish(), model_order(), spectra and crb() take them as they take scenes.

    If no field of view is given, it is the part of space that the array can tell apart. A line of elements tells only
    the angle to itself, so that one of the angles is set to 0. A plane does not tell its two sides apart: of an upright
    plane the side towards x is searched, of one that lies the side towards z, of one that leans both sides. Ranges go
    from NEAREST times the size of the array to FARTHEST.

    Attributes:
        snapshots: y, [B,L,M], complex.
        codes: c, [B,L,N], complex.
        channel: H, [B,M,N], complex.
        array: of the N elements.
        noise_power: σ² of one antenna, [B], real, or None.
        config: MeasurementModel.

    Example:
        >>> from rislab.music.sparse import sparse
        >>> array = ArrayGeometry.linear(8, wavelength=0.1, wavefront="planar")
        >>> place = torch.tensor([0.3], dtype=torch.float64), torch.zeros(1), torch.ones(1)
        >>> x = torch.randn(20, 1, dtype=torch.complex128) * array.steering(*place)
        >>> round(float(sparse(Measurement.direct(x, array), 1).azimuth), 6)
        0.3
    """

    def __init__(
        self,
        snapshots: ArrayLike | Tensor,
        codes: ArrayLike | Tensor,
        channel: ArrayLike | Tensor,
        array: ArrayGeometry,
        noise_power: float | ArrayLike | Tensor | None = None,
        *,
        azimuth: Interval | float | None = None,
        elevation: Interval | float | None = None,
        range: Interval | float | None = None,
        symbols: str = "varying",
        pilots: ArrayLike | Tensor | None = None,
    ) -> None:
        """Check everything, and bring it into one precision.

        Args:
            snapshots: y, [L,M] or [B,L,M]; complex, from NumPy or torch. Its precision is that of all results.
            codes: c, [L,N] or [B,L,N]; what each element multiplies its field by, of any modulus.
            channel: H, [M,N] or [B,M,N], complex; from the elements to the antennas.
            array: of the N elements, [N,3].
            noise_power: σ² of one antenna, > 0, one number or [B]; None if it is not known.
            azimuth: (smallest, largest) that is searched, radians within ±π; one number is a known value.
            elevation: the same, radians within ±π/2.
            range: the same, metres, > 0.
            symbols: see MeasurementModel.
            pilots: [L] or [B,L], the known waveform of the source; its unknown gain is then constant.

        Raises:
            InputError: for shapes that do not fit, NaN, infinity, zeros, equal codes, or values out of range.
        """
        checks.check_array(array)
        self.array = array
        self.snapshots = checks.complex_tensor("snapshots", snapshots)
        dtype, device = self.snapshots.dtype, self.snapshots.device
        self.codes = checks.complex_tensor("codes", codes).to(device, dtype)
        checks.refuse_degrees(codes)
        self.channel = checks.complex_tensor("channel", channel).to(device, dtype)
        if self.snapshots.ndim == 2:
            self.snapshots = self.snapshots.unsqueeze(0)
        checks.check_shapes(self.snapshots, self.codes, self.channel, array.count)
        scenes, length, antennas = self.snapshots.shape
        self.codes = checks.for_each_scene(self.codes, scenes)
        self.channel = checks.for_each_scene(self.channel, scenes)
        checks.check_largest("snapshots", self.snapshots)
        checks.refuse_covariance(self.snapshots)
        checks.check_largest("channel", self.channel)
        checks.check_largest("codes", self.codes)
        checks.refuse_equal_codes(self.codes, antennas)
        if pilots is not None:
            symbols = "constant"
            self.codes = self.codes * checks.pilots_of(pilots, scenes, length).to(device, dtype).unsqueeze(-1)
        check_choice("symbols", symbols, SYMBOLS)
        self.noise_power = checks.noise_power_of(noise_power, scenes, self.snapshots)
        usual = default_field_of_view(array)
        given = {"azimuth": azimuth, "elevation": elevation, "range": range}
        intervals = {name: checks.interval_of(name, value, usual[name]) for name, value in given.items()}
        self.config = MeasurementModel(array, **intervals, symbols=symbols, antennas=antennas, snapshots=length)
        if self.doubt:
            warnings.warn(self.doubt, stacklevel=2)

    @property
    def doubt(self) -> str:
        """What may be wrong though a fit can be made, a sentence each; "" if nothing is."""
        everywhere = (self.config.azimuth, self.config.elevation) == (_AROUND, _UP_AND_DOWN)
        middle = torch.linalg.vector_norm(self.array.elements.double().mean(0))
        off_centre = self.config.wavefront != "planar" and bool(middle > self.array.extent().norm())
        doubts = {
            LEANING: everywhere and _leans(*_principal_axes(self.array)),
            REAL: not self.snapshots.imag.any(),
            OFF_CENTRE: off_centre,
        }
        return "; ".join(text for text, holds in doubts.items() if holds)

    @property
    def is_direct(self) -> bool:
        """Whether the antennas are the elements themselves, H = I, as of direct()."""
        identity = torch.eye(self.array.count, device=self.channel.device)
        return self.config.antennas == self.array.count and bool((self.channel == identity).all())

    @property
    def one_sided(self) -> bool:
        """Whether the elements form a plane that receives from both sides, of which only one is searched."""
        rank, axes = _principal_axes(self.array)
        view = default_field_of_view(self.array)
        searched = (self.config.azimuth, self.config.elevation) == (view["azimuth"], view["elevation"])
        return self.is_direct and rank == 2 and searched and not _leans(rank, axes)

    @classmethod
    def direct(
        cls,
        x: ArrayLike | Tensor,
        array: ArrayGeometry,
        noise_power: float | ArrayLike | Tensor | None = None,
        **options: Any,
    ) -> Self:
        """What an ordinary array receives by itself, without a surface: H = I and c = 1.

        Args:
            x: [T,N] or [B,T,N], complex; T snapshots of the N elements.
            array: of the N elements.
            noise_power: see Measurement.
            options: azimuth, elevation, range, symbols and pilots; see Measurement.
        """
        checks.check_array(array)
        snapshots = checks.snapshots_of_elements("x", x, array.count)
        length = snapshots.shape[-2] if snapshots.ndim > 1 else 1
        one = torch.ones(length, array.count)
        return cls(snapshots, one, torch.eye(array.count), array, noise_power, **options)

    def __len__(self) -> int:
        return self.snapshots.shape[0]

    def __repr__(self) -> str:
        config = self.config
        sizes = f"B={len(self)}, L={config.snapshots}, M={config.antennas}, N={config.elements}"
        return f"Measurement({sizes}, {config.wavefront} waves, λ={config.wavelength:g} m, {config.symbols} symbols)"

    def changed(self, **parts: Tensor | ArrayGeometry | MeasurementModel | None) -> Measurement:
        """The measurements with some parts replaced, tensors by others of their shape; nothing is checked again."""
        other = copy.copy(self)
        other.__dict__.update(parts)
        return other

    def __getitem__(self, which: int | slice | list[int] | Tensor) -> Measurement:
        """Measurements by number, slice, list, index tensor or mask, as a batch also for a single number."""
        rows = rows_of(self, which)
        noise = None if self.noise_power is None else self.noise_power[rows]
        parts = {name: self.__dict__[name][rows] for name in ("snapshots", "codes", "channel")}
        return self.changed(**parts, noise_power=noise)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Measurement:
        """The measurements on a device, and in the real dtype float32 or float64 (complex tensors follow)."""
        wide = None if dtype is None else dtype.to_complex()
        parts = {name: self.__dict__[name].to(device, wide) for name in ("snapshots", "codes", "channel")}
        return self.changed(
            **parts, noise_power=None if self.noise_power is None else self.noise_power.to(device, dtype)
        )

    def received_fields(self, columns: Tensor) -> Tensor:
        """What the antennas receive in each snapshot of fields [B,N,C] on the array, [B,L,M,C]; see SceneBatch."""
        return received_fields(self.codes, self.channel, columns)

    def leading(self, count: int) -> Measurement:
        """The first snapshots alone, at most `count`."""
        tensors = {name: self.__dict__[name][:, :count] for name in ("snapshots", "codes")}
        other = self.changed(**tensors)
        other.config = dataclasses.replace(self.config, snapshots=other.snapshots.shape[1])
        return other

    def centred(self) -> Measurement:
        """The measurements without what does not change with the codes, such as paths past the surface.

        Snapshots and codes less their means over the snapshots: the model holds as before. For constant symbols.
        """
        if self.config.symbols != "constant" or self.config.snapshots < 2:
            raise InputError(
                "symbols vary or there is one snapshot; allowed: constant symbols in at least two snapshots"
            )
        tensors = {name: self.__dict__[name] for name in ("snapshots", "codes")}
        return self.changed(**{name: tensor - tensor.mean(1, keepdim=True) for name, tensor in tensors.items()})

    def grid(self, shape: tuple[int, int, int]) -> Grid:
        """Grid of azimuth × elevation × range over the field of view, for spectra."""
        return self.config.grid(shape)


Measured = SceneBatch | Measurement


def check_measured(batch: object, name: str = "batch", others: str = "") -> None:
    """Raise InputError for anything but scenes and measurements; `others` names what is allowed besides."""
    if not isinstance(batch, SceneBatch | Measurement):
        raise InputError(f"{name} is a {type(batch).__name__}; allowed: {others}a Measurement or a SceneBatch")


def default_field_of_view(array: ArrayGeometry) -> dict[str, Interval]:
    """The part of space in which an array can tell positions apart, by axis; see Measurement.

    Raises:
        InputError: for an array of a single place, which tells no direction.
    """
    rank, axes = _principal_axes(array)
    if rank == 0:
        raise InputError("array has all its elements in one place; allowed: at least two places")
    nearest = min(max(NEAREST * float(array.extent().norm()), array.wavelength / 4), checks.FARTHEST)
    far = {"range": (nearest, checks.FARTHEST)}
    half, quarter = math.pi, math.pi / 2
    if rank == 1:
        x, y, z = axes[0].tolist()
        if abs(z) > 1 - FLAT:
            return {"azimuth": (0.0, 0.0), "elevation": _UP_AND_DOWN, **far}
        # Of the two half circles beside the line, the one that holds the x axis or begins at it.
        turn = math.atan2(y, x) % half
        return {"azimuth": (turn - half, turn), "elevation": (0.0, 0.0), **far}
    if rank == 3 or _leans(rank, axes):
        return {"azimuth": _AROUND, "elevation": _UP_AND_DOWN, **far}
    x, y, z = axes[2].tolist()  # the normal of the plane
    if abs(z) >= LYING:
        return {"azimuth": _AROUND, "elevation": (0.0, quarter), **far}
    turn = (math.atan2(y, x) + quarter) % half - quarter
    return {"azimuth": (max(turn - quarter, -half), min(turn + quarter, half)), "elevation": _UP_AND_DOWN, **far}


def _principal_axes(array: ArrayGeometry) -> tuple[int, Tensor]:
    """In how many dimensions the elements extend, and their principal axes [3,3], one a row, the longest first."""
    centred = array.elements.double() - array.elements.double().mean(0)
    _, spread, axes = torch.linalg.svd(centred, full_matrices=True)
    return int((spread > FLAT * spread[0]).sum()), axes


def _leans(rank: int, axes: Tensor) -> bool:
    return rank == 2 and UPRIGHT < abs(float(axes[2, 2])) < LYING
