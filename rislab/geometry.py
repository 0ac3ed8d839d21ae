"""Arrays, positions, the one steering function, and search grids.

Conventions (all in metres and radians): element n = v·N_h + h of a surface of N_v × N_h elements sits at
e_n = (0, y_n, z_n), centred on the origin, h (azimuth axis) running fastest; a source at azimuth φ, elevation θ and
range r sits at p = r·(cosθ cosφ, cosθ sinφ, sinθ).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rislab.errors import InputError, check_choice, check_interval, check_number

WAVEFRONTS = ("spherical", "fresnel", "planar")
# Bytes of steering vectors that a grid keeps: 12×12 elements over 181×91 points take 19 MB, over 125 000 points 144 MB.
KEPT = 2**28


def direction(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vector towards (azimuth, elevation).

    Args:
        azimuth, elevation: [...], radians.

    Returns:
        [..., 3], real, (cosθ cosφ, cosθ sinφ, sinθ).
    """
    across = torch.cos(elevation)
    return torch.stack([across * torch.cos(azimuth), across * torch.sin(azimuth), torch.sin(elevation)], dim=-1)


def position(azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
    """Cartesian position, [..., 3] in metres, of sources at (azimuth, elevation, range)."""
    return range.unsqueeze(-1) * direction(azimuth, elevation)


def position_jacobian(azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
    """∂p/∂(φ, θ, r), [..., 3, 3]: rows are the coordinates x, y, z, columns azimuth, elevation and range."""
    sin_a, cos_a = torch.sin(azimuth), torch.cos(azimuth)
    sin_e, cos_e = torch.sin(elevation), torch.cos(elevation)
    by_azimuth = torch.stack([-cos_e * sin_a, cos_e * cos_a, torch.zeros_like(sin_e)], dim=-1)
    by_elevation = torch.stack([-sin_e * cos_a, -sin_e * sin_a, cos_e], dim=-1)
    scaled = [range.unsqueeze(-1) * by_azimuth, range.unsqueeze(-1) * by_elevation]
    return torch.stack([*scaled, direction(azimuth, elevation)], dim=-1)


def separation(azimuth: Tensor, elevation: Tensor, other_azimuth: Tensor, other_elevation: Tensor) -> Tensor:
    """Angle in radians between two directions seen from the centre of the surface; arguments broadcast."""
    cosine = (direction(azimuth, elevation) * direction(other_azimuth, other_elevation)).sum(-1)
    return torch.acos(cosine.clamp(-1.0, 1.0))


def path_difference(
    elements: Tensor, azimuth: Tensor, elevation: Tensor, range: Tensor, wavefront: str = "spherical"
) -> Tensor:
    """Extra path ‖p − e_n‖ − r from a source to each element, in metres.

    With u = e·p/r and curvature c = 1/r the exact ("spherical") value is written without cancellation as
    (|e|²c − 2u) / (√(1 − 2uc + |e|²c²) + 1); "fresnel" is its second-order expansion −u + (|e|² − u²)·c/2, and
    "planar" drops the curvature, −u.

    Args:
        elements: [..., N, 3], metres, relative to the centre of the surface.
        azimuth, elevation: [...], radians.
        range: [...], metres, > 0; infinity is a plane wave.
        wavefront: "spherical", "fresnel" or "planar".

    Returns:
        [..., N], metres, in the dtype of the arguments.
    """
    toward = direction(azimuth, elevation)
    along = (toward.unsqueeze(-2) @ elements.mT).squeeze(-2)  # u, [..., N]
    if wavefront == "planar":
        return -along
    curvature = 1.0 / range.unsqueeze(-1)  # [..., 1]
    squared = elements.square().sum(-1)  # [..., N]
    if wavefront == "fresnel":
        return -along + (squared - along.square()) * curvature / 2
    check_choice("wavefront", wavefront, WAVEFRONTS)
    distance = torch.sqrt(1.0 - 2.0 * along * curvature + squared * curvature.square())  # ‖p − e‖ / r
    return (squared * curvature - 2.0 * along) / (distance + 1.0)


def path_gradient(
    elements: Tensor, azimuth: Tensor, elevation: Tensor, range: Tensor, wavefront: str = "spherical"
) -> Tensor:
    """Derivatives of path_difference() by azimuth, elevation and range, [..., 3, N], in m/rad, m/rad and m/m.

    With d = ‖p − e‖ and u = e·p/r the exact ones are −e·∂p/∂φ / d, −e·∂p/∂θ / d and (r − u)/d − 1 = −(path + u)/d;
    those of the expansions otherwise. A plane wave does not depend on the range.
    """
    jacobian = position_jacobian(azimuth, elevation, range)  # [..., 3, 3]
    turning = jacobian.mT @ elements.mT  # e·∂p/∂φ, e·∂p/∂θ and u, [..., 3, N]
    r = range[..., None, None]
    if wavefront == "spherical":
        path = path_difference(elements, azimuth, elevation, range).unsqueeze(-2)
        return -torch.cat([turning[..., :2, :], turning[..., 2:, :] + path], dim=-2) / (r + path)
    check_choice("wavefront", wavefront, WAVEFRONTS)
    along = turning[..., 2:, :]
    turning = turning[..., :2, :] / r  # ∂u/∂φ and ∂u/∂θ
    if wavefront == "planar":
        return torch.cat([-turning, torch.zeros_like(along)], dim=-2)
    squared = elements.square().sum(-1).unsqueeze(-2)
    by_range = -(squared - along.square()) / (2 * r.square())
    return torch.cat([-turning * (1 + along / r), by_range], dim=-2)


@dataclass(frozen=True, eq=False)
class Array:
    """Elements of an aperture with the wavelength and the wavefront model: the one steering object of the lab.

    Args:
        elements: [..., N, 3], float32 or float64, metres.
        wavelength: metres, > 0.
        wavefront: "spherical" (exact), "fresnel" or "planar".
    """

    elements: Tensor
    wavelength: float
    wavefront: str = "spherical"

    def __post_init__(self) -> None:
        check_number("wavelength", self.wavelength, 0.0, above=True)
        check_choice("wavefront", self.wavefront, WAVEFRONTS)

    @classmethod
    def surface(
        cls,
        shape: tuple[int, int],
        wavelength: float,
        wavefront: str = "spherical",
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> Array:
        """Half-wavelength surface of (N_v, N_h) elements in the y-z plane, centred on the origin."""
        rows, columns = shape
        z = (torch.arange(rows, dtype=torch.float64) - (rows - 1) / 2) * wavelength / 2
        y = (torch.arange(columns, dtype=torch.float64) - (columns - 1) / 2) * wavelength / 2
        grid_z, grid_y = torch.meshgrid(z, y, indexing="ij")
        elements = torch.stack([torch.zeros_like(grid_y), grid_y, grid_z], dim=-1).reshape(-1, 3)  # [N, 3]
        return cls(elements.to(device, dtype), wavelength, wavefront)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Array:
        """The same array on a device and in a real dtype."""
        return replace(self, elements=self.elements.to(device=device, dtype=dtype))

    @property
    def count(self) -> int:
        """N, the number of elements."""
        return self.elements.shape[-2]

    def axes(self) -> tuple[Tensor, Tensor] | None:
        """Coordinates z [N_v] and y [N_h] of a surface whose elements are their product grid, else None."""
        x, y, z = self.elements.unbind(-1)
        if self.elements.ndim != 2 or bool((x != 0).any()):
            return None
        columns = int((z == z[0]).sum())
        if len(z) % columns:
            return None
        rows_z, rows_y = z.reshape(-1, columns), y.reshape(-1, columns)
        product = bool((rows_z == rows_z[:, :1]).all()) and bool((rows_y == rows_y[:1]).all())
        return (rows_z[:, 0], rows_y[0]) if product else None

    def steering(self, azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
        """Steering vectors a_n = N^(-1/2) · exp(−j k0 (‖p − e_n‖ − r)).

        Args:
            azimuth, elevation: [...], radians.
            range: [...], metres, > 0.

        Returns:
            [..., N], complex, unit norm. Amplitude is uniform over the aperture by definition.
        """
        wavenumber = 2 * math.pi / self.wavelength
        # Autocast would take the matrix product of the path to half precision, and the truth with it.
        with torch.autocast(self.elements.device.type, enabled=False):
            phase = wavenumber * path_difference(self.elements, azimuth, elevation, range, self.wavefront)
        return torch.complex(torch.cos(phase), -torch.sin(phase)) / math.sqrt(self.elements.shape[-2])

    def derivatives(self, azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
        """Derivatives of steering() by azimuth, elevation and range, [..., 3, N], complex.

        ∂a/∂θ = −j k0 · ∂(path)/∂θ · a.
        """
        return (
            -1j
            * self.phase_gradient(azimuth, elevation, range)
            * self.steering(azimuth, elevation, range).unsqueeze(-2)
        )

    def phase_gradient(self, azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
        """Derivatives of the phase lag k0 (‖p − e_n‖ − r) by azimuth, elevation and range, [..., 3, N], real."""
        with torch.autocast(self.elements.device.type, enabled=False):
            slope = path_gradient(self.elements, azimuth, elevation, range, self.wavefront)
        return 2 * math.pi / self.wavelength * slope


@dataclass(frozen=True, eq=False)
class Grid:
    """Steering vectors over a product grid of azimuth × elevation × range.

    Args:
        array: the elements, with wavelength and wavefront; [N,3].
        azimuth: [P], radians. elevation: [Q], radians. range: [R], metres, > 0.
    """

    array: Array
    azimuth: Tensor
    elevation: Tensor
    range: Tensor
    _kept: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("azimuth", "elevation", "range"):
            axis: Tensor = self.__dict__[name]
            if axis.ndim != 1 or axis.numel() == 0:
                raise InputError(f"grid {name} has shape {tuple(axis.shape)}; allowed: one axis of at least one point")
            if not bool(torch.isfinite(axis).all()):
                raise InputError(f"grid {name} holds NaN or infinity; allowed: finite values")
        if not bool((self.range > 0).all()):
            raise InputError(f"grid range is {float(self.range.min()):g} m at its smallest; allowed: above 0")

    @classmethod
    def field_of_view(
        cls,
        array: Array,
        azimuth: tuple[float, float],
        elevation: tuple[float, float],
        range: tuple[float, float],
        shape: tuple[int, int, int],
        *,
        spacing: str = "uniform",
    ) -> Grid:
        """Grid over intervals of azimuth and elevation (radians) and range (metres), ends included.

        Args:
            array: the elements.
            azimuth, elevation, range: (smallest, largest).
            shape: number of points (P, Q, R); a single point sits in the middle of its axis.
            spacing: angles "uniform" in radians or equidistant in their "sine"; ranges are always uniform in 1/r,
                the coordinate in which a near-field beam has constant width.

        Returns:
            Grid with float64 axes.
        """
        check_choice("spacing", spacing, ("uniform", "sine"))
        check_interval("grid range", range, 0.0, 1e9)
        for count in shape:
            check_number("grid shape", count, 1, whole=True)
        if range[0] <= 0:
            raise InputError(f"grid range is {range[0]:g} m at its smallest; allowed: above 0")

        def axis(low: float, high: float, count: int) -> Tensor:
            if count == 1:
                return torch.tensor([(low + high) / 2], dtype=torch.float64)
            return torch.linspace(low, high, count, dtype=torch.float64)

        def angle(interval: tuple[float, float], count: int) -> Tensor:
            if spacing == "uniform":
                return axis(*interval, count)
            return torch.asin(axis(math.sin(interval[0]), math.sin(interval[1]), count))

        inverse_range = axis(1.0 / range[1], 1.0 / range[0], shape[2])
        return cls(array, angle(azimuth, shape[0]), angle(elevation, shape[1]), 1.0 / inverse_range)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of points (P, Q, R) along azimuth, elevation and range."""
        return self.azimuth.numel(), self.elevation.numel(), self.range.numel()

    def points(self) -> tuple[Tensor, Tensor, Tensor]:
        """Azimuth, elevation and range of all P·Q·R points, each [P·Q·R], range running fastest."""
        mesh = torch.meshgrid(self.azimuth, self.elevation, self.range, indexing="ij")
        return mesh[0].reshape(-1), mesh[1].reshape(-1), mesh[2].reshape(-1)

    def steering(self, dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor:
        """Steering vectors of all points, [G,N], in a complex dtype; computed in float64."""
        array = self.array.to(device, torch.float64)
        return array.steering(*(axis.to(device, torch.float64) for axis in self.points())).to(dtype)

    def planes(self, dtype: torch.dtype, device: torch.device, part: slice) -> Tensor:
        """Real over imaginary parts of the steering vectors of some points, [2N, G'], ready for a real matrix product.

        All of them are kept for the next call if they take no more than KEPT bytes, else computed anew each time.

        Args:
            dtype: real dtype, also that of the computation. device: where. part: which points, in order of points().
        """
        total = math.prod(self.shape) * 2 * self.array.elements.shape[-2] * dtype.itemsize
        if total > KEPT:
            return self._planes(dtype, device, part)
        if (dtype, device) not in self._kept:
            self._kept[dtype, device] = self._planes(dtype, device, slice(None))
        return self._kept[dtype, device][:, part]

    def _planes(self, dtype: torch.dtype, device: torch.device, part: slice) -> Tensor:
        array = self.array.to(device, dtype)
        vectors = array.steering(*(axis[part].to(device, dtype) for axis in self.points()))  # [G', N]
        return torch.cat([vectors.real.T, vectors.imag.T])
