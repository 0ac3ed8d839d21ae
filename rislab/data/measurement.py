"""Measurements from outside: snapshots, codes, channel and array of anyone, without a truth.

The model is that of data.scenes, y_l = H diag(c_l) A s_l + n_l, with a surface of any shape and codes of any modulus.
An ordinary array is the case H = I, c = 1. Positions are seen from the origin of the array's coordinates.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rislab.data.geometry import ArrayGeometry
from rislab.data.grid import Grid
from rislab.data.scene_config import Interval, SceneConfig
from rislab.data.scenes import SceneBatch, received_fields
from rislab.errors import InputError, check_choice, check_interval, check_number

NEAREST, FARTHEST = 0.2, 1e9
# An element whose distance from a line or a plane is below this share of the aperture lies in it.
FLAT = 1e-6
# A matrix that differs from its conjugate transpose by less than this share of its largest entry is a covariance.
HERMITIAN = 1e-6
# Snapshots beyond these moduli overflow in single precision once they are multiplied.
SMALL, LARGE = 1e-12, 1e12
SYMBOLS = ("varying", "constant")
LIMITS = {"azimuth": (-math.pi, math.pi), "elevation": (-math.pi / 2, math.pi / 2), "range": (1e-6, FARTHEST)}


@dataclass(frozen=True, eq=False)
class MeasurementModel:
    """What is assumed about the sources of a measurement, in the words of SceneConfig.

    Args:
        geometry: of the surface, or of the array where there is none.
        azimuth: (smallest, largest) that is searched, radians; equal ends are a known value.
        elevation: the same, radians.
        range: the same, metres.
        symbols: "varying" (a new waveform in each snapshot) or "constant" (one for all, such as a calibrated channel).
        antennas: M.
        snapshots: L.
    """

    geometry: ArrayGeometry
    azimuth: Interval
    elevation: Interval
    range: Interval
    symbols: str
    antennas: int
    snapshots: int

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
    curved = config.wavefront != "planar"
    widths = (interval[1] > interval[0] for interval in (config.azimuth, config.elevation, config.range))
    azimuth, elevation, far = widths
    return azimuth, elevation, far and curved


def identifiable(config: SceneConfig) -> tuple[SceneConfig, str]:
    """The scenes with what their surface cannot tell set to the middle of its axis, and a sentence that says so.

    A line of elements, a surface of one row or of one column, knows only the angle to itself.

    Args:
        config: of the scenes.

    Returns:
        The configuration itself and "" if both angles can be told, or one of them is known.

    Raises:
        InputError: for a surface of one element.
    """
    rows, columns = config.ris_shape
    if rows * columns == 1:
        raise InputError("ris_shape is (1, 1), and one element knows no direction; allowed: at least two elements")
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

    Where the field of view is not given, it is the part of space that the array can tell apart: a line of elements
    knows only the angle to itself, so that one of the angles is set to 0, and a plane does not know its two sides
    apart. Ranges go from NEAREST times the size of the array to FARTHEST.

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
        if not isinstance(array, ArrayGeometry):
            raise InputError(f"array is a {type(array).__name__}; allowed: an ArrayGeometry")
        if array.elements.ndim != 2:
            raise InputError(f"array holds elements of shape {tuple(array.elements.shape)}; allowed: [N,3]")
        self.array = array
        self.snapshots = _complex("snapshots", snapshots)
        dtype, device = self.snapshots.dtype, self.snapshots.device
        _check_degrees(codes)
        self.codes = _complex("codes", codes).to(device, dtype)
        self.channel = _complex("channel", channel).to(device, dtype)
        if self.snapshots.ndim == 2:
            self.snapshots = self.snapshots.unsqueeze(0)
        _check_shapes(self.snapshots, self.codes, self.channel, array.count)
        scenes, length, antennas = self.snapshots.shape
        self.codes = _for_each_scene(self.codes, scenes)
        self.channel = _for_each_scene(self.channel, scenes)
        _refuse_zeros("snapshots", self.snapshots)
        _refuse_covariance(self.snapshots)
        _refuse_zeros("channel", self.channel)
        _refuse_zeros("codes", self.codes)
        _check_codes(self.codes, antennas)
        if pilots is not None:
            symbols = "constant"
            self.codes = self.codes * _pilots(pilots, scenes, length).to(device, dtype).unsqueeze(-1)
        check_choice("symbols", symbols, SYMBOLS)
        self.noise_power = _noise_power(noise_power, scenes, self.snapshots)
        usual = default_field_of_view(array)
        given = {"azimuth": azimuth, "elevation": elevation, "range": range}
        intervals = {name: _interval(name, value, usual[name]) for name, value in given.items()}
        self.config = MeasurementModel(array, **intervals, symbols=symbols, antennas=antennas, snapshots=length)

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
        snapshots = _complex("x", x)
        if snapshots.shape[-1] != array.count:
            turned = snapshots.ndim > 1 and snapshots.shape[-2] == array.count
            hint = "; its transpose fits" if turned else ""
            if turned and snapshots.ndim == 3 and snapshots.shape[-1] == 2 and not snapshots.imag.any():
                hint = "; real and imaginary parts are one number, x[..., 0] + 1j * x[..., 1]"
            raise InputError(
                f"x has shape {tuple(snapshots.shape)}; allowed: [T,{array.count}], snapshots by elements{hint}"
            )
        length = snapshots.shape[-2] if snapshots.ndim > 1 else 1
        one = torch.ones(length, array.count)
        return cls(snapshots, one, torch.eye(array.count), array, noise_power, **options)

    def __len__(self) -> int:
        return self.snapshots.shape[0]

    def __repr__(self) -> str:
        config = self.config
        sizes = f"B={len(self)}, L={config.snapshots}, M={config.antennas}, N={config.elements}"
        return f"Measurement({sizes}, {config.wavefront} waves, λ={config.wavelength:g} m, {config.symbols} symbols)"

    def changed(self, **tensors: Tensor | None) -> Measurement:
        """The measurements with some tensors replaced by others of their shape; nothing is checked again."""
        other = copy.copy(self)
        other.__dict__.update(tensors)
        return other

    def __getitem__(self, which: int | slice | list[int] | Tensor) -> Measurement:
        """Measurements by number, slice, list, index tensor or mask, as a batch also for a single number."""
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise IndexError(f"measurement {which} of {len(self)}")
            which = slice(which, which + 1 or None)
        noise = None if self.noise_power is None else self.noise_power[which]
        parts = {name: self.__dict__[name][which] for name in ("snapshots", "codes", "channel")}
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


def _complex(name: str, values: ArrayLike | Tensor) -> Tensor:
    """The values as a complex tensor of finite numbers: complex64 if they come in single precision or less.

    Numbers whose squares single precision does not hold become complex128.
    """
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} holds no numbers ({error}); allowed: a complex array") from None
    narrow = (torch.complex64, torch.float32, torch.float16, torch.bfloat16)
    tensor = tensor.detach().to(torch.complex64 if tensor.dtype in narrow else torch.complex128)
    if not 1 <= tensor.ndim <= 3 or not tensor.numel():
        raise InputError(f"{name} has shape {tuple(tensor.shape)}; allowed: a table with or without a batch axis")
    if not bool(torch.isfinite(torch.view_as_real(tensor)).all()):
        place = torch.isfinite(torch.view_as_real(tensor)).all(-1).logical_not().nonzero()[0].tolist()
        raise InputError(f"{name}{place} is NaN or infinite; allowed: finite values")
    largest = float(tensor.abs().max())
    return tensor.to(torch.complex128) if largest > LARGE or 0 < largest < SMALL else tensor


def _check_degrees(codes: ArrayLike | Tensor) -> None:
    """Refuse phases in place of complex factors."""
    tensor = codes if isinstance(codes, Tensor) else torch.as_tensor(codes)
    if tensor.is_complex() or tensor.dtype == torch.bool or not tensor.numel():
        return
    largest = float(tensor.abs().max())
    if largest > 2 * math.pi + 1e-6:
        raise InputError(
            f"codes are real and go up to {largest:g}, as phases in degrees do; "
            "allowed: complex factors, np.exp(1j * np.deg2rad(codes))"
        )


def _check_shapes(snapshots: Tensor, codes: Tensor, channel: Tensor, elements: int) -> None:
    if snapshots.ndim != 3:
        raise InputError(f"snapshots have shape {tuple(snapshots.shape)}; allowed: [L,M] or [B,L,M]")
    scenes, length, antennas = snapshots.shape
    sizes = f"L = {length} snapshots, M = {antennas} antennas, N = {elements} elements"
    turned = codes.shape[-2:] == (antennas, elements) and channel.shape[-2:] == (length, elements)
    if turned and length != antennas:
        raise InputError(
            f"snapshots have shape {tuple(snapshots.shape[1:])}, and codes and channel say that there are {antennas} "
            f"snapshots and {length} antennas; allowed: [L,M], the transpose"
        )
    axes = {"codes": (codes, (length, elements), "[L,N]"), "channel": (channel, (antennas, elements), "[M,N]")}
    for name, (tensor, wanted, letters) in axes.items():
        if tensor.shape[-2:] == wanted and (tensor.ndim == 2 or tensor.shape[0] in (1, scenes)):
            continue
        hint = "; its transpose fits" if tensor.ndim > 1 and tensor.mT.shape[-2:] == wanted else ""
        batch = f", or [{scenes},{wanted[0]},{wanted[1]}]" if scenes > 1 or tensor.ndim == 3 else ""
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}; allowed: {letters} = {list(wanted)}{batch} with {sizes}{hint}"
        )


def _for_each_scene(tensor: Tensor, scenes: int) -> Tensor:
    """[B,…] without a copy."""
    return (tensor.unsqueeze(0) if tensor.ndim == 2 else tensor).expand(scenes, -1, -1)


def _refuse_zeros(name: str, tensor: Tensor) -> None:
    zero = (tensor == 0).flatten(1).all(-1)
    if bool(zero.any()):
        raise InputError(f"{name} of measurement {int(zero.nonzero()[0, 0])} is zero everywhere; allowed: a signal")


def _refuse_covariance(snapshots: Tensor) -> None:
    """Refuse a Hermitian matrix in the place of snapshots."""
    if snapshots.shape[-1] != snapshots.shape[-2] or not snapshots.imag.any():
        return
    if float((snapshots - snapshots.mH).abs().max()) <= HERMITIAN * float(snapshots.abs().max()):
        raise InputError(
            "snapshots are Hermitian, as a covariance is; allowed: snapshots, or music_spectrum() of the covariance"
        )


def _check_codes(codes: Tensor, antennas: int) -> None:
    """Refuse a surface that never changes, seen by fewer antennas than it has elements."""
    length, elements = codes.shape[-2:]
    same = (codes == codes[:, :1]).flatten(1).all(-1)
    if length > 1 and antennas < elements and bool(same.any()):
        raise InputError(
            f"codes are equal in all {length} snapshots of measurement {int(same.nonzero()[0, 0])}, so that {antennas} "
            f"antennas see {elements} elements in one way only; allowed: codes that change"
        )


def _pilots(pilots: ArrayLike | Tensor, scenes: int, length: int) -> Tensor:
    tensor = _complex("pilots", pilots)
    if tensor.shape not in ((length,), (scenes, length)):
        raise InputError(f"pilots have shape {tuple(tensor.shape)}; allowed: [{length}], one for each snapshot")
    return tensor


def _noise_power(given: float | ArrayLike | Tensor | None, scenes: int, snapshots: Tensor) -> Tensor | None:
    if given is None:
        return None
    tensor = torch.as_tensor(given, dtype=snapshots.real.dtype, device=snapshots.device)
    if tensor.shape not in ((), (1,), (scenes,)):
        raise InputError(f"noise_power has shape {tuple(tensor.shape)}; allowed: one number or [{scenes}]")
    for value in tensor.flatten().tolist():
        check_number("noise_power", value, 0.0, exclusive=True)
    return tensor.expand(scenes)


def _interval(name: str, given: Interval | float | None, usual: Interval) -> Interval:
    """The interval of an axis, or its default."""
    if given is None:
        return usual
    pair = tuple(float(end) for end in given) if isinstance(given, tuple | list) else (float(given), float(given))
    low, high = LIMITS[name]
    most = max(abs(end) for end in pair)
    if name != "range" and high < most <= math.degrees(high):
        raise InputError(
            f"{name} is {given!r}, which looks like degrees; allowed: radians in [{low:.4g}, {high:.4g}], "
            f"such as math.radians({most:g})"
        )
    check_interval(name, pair, low, high)
    return pair[0], pair[-1]


def default_field_of_view(array: ArrayGeometry) -> dict[str, Interval]:
    """The part of space in which an array can tell positions apart, by axis; see Measurement.

    Args:
        array: elements [N,3].

    Raises:
        InputError: for an array of a single place, which knows no direction.
    """
    centred = array.elements.double() - array.elements.double().mean(0)
    _, spread, axes = torch.linalg.svd(centred, full_matrices=True)
    spread = torch.nn.functional.pad(spread, (0, 3 - len(spread)))
    if float(spread[0]) == 0:
        raise InputError("array has all its elements in one place; allowed: at least two places")
    rank = int((spread > FLAT * spread[0]).sum())
    nearest = min(max(NEAREST * float(array.extent().norm()), array.wavelength / 4), FARTHEST)
    far = {"range": (nearest, FARTHEST)}
    half, quarter = math.pi, math.pi / 2
    if rank == 1:
        x, y, z = axes[0].tolist()
        if abs(z) > 1 - FLAT:
            return {"azimuth": (0.0, 0.0), "elevation": (-quarter, quarter), **far}
        # The half circle beside the line which holds the x axis, or begins at it.
        turn = math.atan2(y, x) % half
        return {"azimuth": (turn - half, turn), "elevation": (0.0, 0.0), **far}
    x, y, z = axes[2].tolist()  # the normal of the plane
    if rank == 3:
        return {"azimuth": (-half, half), "elevation": (-quarter, quarter), **far}
    if abs(z) > 0.5:
        return {"azimuth": (-half, half), "elevation": (0.0, quarter), **far}
    turn = (math.atan2(y, x) + quarter) % half - quarter
    return {"azimuth": (max(turn - quarter, -half), min(turn + quarter, half)), "elevation": (-quarter, quarter), **far}
