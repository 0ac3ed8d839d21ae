"""Arrays, positions, and the one steering function.

Conventions (all in metres and radians): element n = v·N_h + h of a surface of N_v × N_h elements sits at
e_n = (0, y_n, z_n), centred on the origin, h (azimuth axis) running fastest; a source at azimuth φ, elevation θ and
range r sits at p = r·(cosθ cosφ, cosθ sinφ, sinθ). The steering vector is a_n = N^(−1/2) · exp(−j k0 (‖p − e_n‖ − r)),
k0 = 2π/λ: a longer path has a more negative phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rislab.data.wavefronts import WAVEFRONTS
from rislab.errors import InputError, check_choice, check_number


def direction(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vectors (cosθ cosφ, cosθ sinφ, sinθ) [...,3] towards azimuth φ and elevation θ, [...] each in radians.

    Example:
        >>> direction(torch.tensor(0.0), torch.tensor(0.0)).tolist()  # broadside
        [1.0, 0.0, 0.0]
    """
    across = torch.cos(elevation)
    return torch.stack([across * torch.cos(azimuth), across * torch.sin(azimuth), torch.sin(elevation)], dim=-1)


def position(azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
    """Positions x, y, z [...,3] in metres of sources at [...] azimuth and elevation in radians, and range in metres."""
    return range.unsqueeze(-1) * direction(azimuth, elevation)


def position_jacobian(azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
    """Derivatives ∂p/∂(φ, θ, r) of position(), [...,3,3]; rows are x, y, z, columns azimuth, elevation and range."""
    sin_a, cos_a = torch.sin(azimuth), torch.cos(azimuth)
    sin_e, cos_e = torch.sin(elevation), torch.cos(elevation)
    by_azimuth = torch.stack([-cos_e * sin_a, cos_e * cos_a, torch.zeros_like(sin_e)], dim=-1)
    by_elevation = torch.stack([-sin_e * cos_a, -sin_e * sin_a, cos_e], dim=-1)
    scaled = [range.unsqueeze(-1) * by_azimuth, range.unsqueeze(-1) * by_elevation]
    return torch.stack([*scaled, direction(azimuth, elevation)], dim=-1)


def separation(azimuth: Tensor, elevation: Tensor, other_azimuth: Tensor, other_elevation: Tensor) -> Tensor:
    """Angle [...] between two directions seen from the centre of the surface, 0 … π; all in radians."""
    cosine = (direction(azimuth, elevation) * direction(other_azimuth, other_elevation)).sum(-1)
    return torch.acos(cosine.clamp(-1.0, 1.0))


def wavenumber(wavelength: float) -> float:
    """k0 = 2π/λ, radians per metre."""
    return 2 * math.pi / wavelength


def path_difference(
    elements: Tensor, azimuth: Tensor, elevation: Tensor, range: Tensor, wavefront: str = "spherical"
) -> Tensor:
    """Extra path ‖p − e_n‖ − r from a source to each element, in metres.

    With u = e·p/r and curvature c = 1/r the exact ("spherical") value is written without cancellation as
    (|e|²c − 2u) / (√(1 − 2uc + |e|²c²) + 1); "fresnel" is its second-order expansion −u + (|e|² − u²)·c/2, and
    "planar" drops the curvature, −u.

    Args:
        elements: [..., N, 3], metres, relative to the centre of the surface.
        azimuth: [...], radians.
        elevation: [...], radians.
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
    distance = _root(1.0 - 2.0 * along * curvature + squared * curvature.square())  # ‖p − e‖ / r
    return (squared * curvature - 2.0 * along) / (distance + 1.0)


def _root(squared: Tensor) -> Tensor:
    """Square root with a finite value and slope also at an element itself, where rounding may give less than 0."""
    return torch.sqrt(squared.clamp(min=torch.finfo(squared.dtype).eps ** 2))


def path_and_gradient(
    elements: Tensor, azimuth: Tensor, elevation: Tensor, inverse_range: Tensor, wavefront: str = "spherical"
) -> tuple[Tensor, Tensor]:
    """Compute path_difference() and its derivatives by azimuth, elevation and c = 1/r.

    With u = e·t for the unit vector t towards the source and q = ‖p − e‖/r, the exact ones are −u_φ/q, −u_θ/q and
    (|e|² + u (|e|²c − 2u)/(q + 1)) / ((q + 1) q), which has its limit (|e|² − u²)/2 at c = 0; those of the expansions
    otherwise. A plane wave does not depend on the range. The other arguments are those of path_difference().

    Args:
        inverse_range: c, [...], 1/m, ≥ 0.

    Returns:
        [..., N] in metres, and [..., 3, N] in m/rad, m/rad and m².
    """
    sin_a, cos_a = torch.sin(azimuth), torch.cos(azimuth)
    sin_e, cos_e = torch.sin(elevation), torch.cos(elevation)
    side, front, none = cos_e * sin_a, cos_e * cos_a, torch.zeros_like(sin_e)
    towards = [front, side, sin_e, -side, front, none, -sin_e * cos_a, -sin_e * sin_a, cos_e]  # t, ∂t/∂φ, ∂t/∂θ
    products = torch.stack(towards, dim=-1).unflatten(-1, (3, 3)) @ elements.mT  # [..., 3, N]
    along, turning = products[..., 0, :], products[..., 1:, :]  # u; u_φ and u_θ
    c = inverse_range.unsqueeze(-1)
    squared = elements.square().sum(-1)
    if wavefront == "spherical":
        bend = squared * c - 2 * along
        distance = _root(1 + bend * c)  # q
        path = bend / (distance + 1)
        by_inverse = (squared + along * path) / ((distance + 1) * distance)
        return path, torch.cat([-turning / distance.unsqueeze(-2), by_inverse.unsqueeze(-2)], dim=-2)
    if wavefront == "planar":
        return -along, torch.cat([-turning, torch.zeros_like(along).unsqueeze(-2)], dim=-2)
    check_choice("wavefront", wavefront, WAVEFRONTS)
    by_inverse = (squared - along.square()) / 2
    slopes = -turning * (1 + along * c).unsqueeze(-2)
    return -along + by_inverse * c, torch.cat([slopes, by_inverse.unsqueeze(-2)], dim=-2)


@lru_cache(maxsize=64)
def _surface_elements(rows: int, columns: int, spacing: float) -> Tensor:
    """[N, 3] in float64, as in ArrayGeometry.surface(); not to be changed in place."""
    for count in (rows, columns):
        check_number("count", count, 1, 2**20, integer=True)
    z = (torch.arange(rows, dtype=torch.float64, device="cpu") - (rows - 1) / 2) * spacing
    y = (torch.arange(columns, dtype=torch.float64, device="cpu") - (columns - 1) / 2) * spacing
    grid_z, grid_y = torch.meshgrid(z, y, indexing="ij")
    return torch.stack([torch.zeros_like(grid_y), grid_y, grid_z], dim=-1).reshape(-1, 3)  # [N, 3]


def _positions(elements: NDArray[Any]) -> Tensor:
    """Coordinates given as anything but a tensor, [N,3] in float64."""
    if np.iscomplexobj(elements):
        raise InputError("elements are complex; allowed: [N,3], x, y and z of each in metres")
    try:
        tensor = torch.as_tensor(np.array(elements, dtype=float))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"elements are not numbers ({error}); allowed: [N,3], x, y and z of each in metres") from None
    if tensor.ndim != 2 or tensor.shape[1] != 3 or not len(tensor):
        hint = "; the transpose fits" if tensor.ndim == 2 and tensor.shape[0] == 3 else ""
        raise InputError(
            f"elements have shape {tuple(tensor.shape)}; allowed: [N,3], x, y and z of each in metres{hint}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise InputError("elements hold NaN or infinity; allowed: finite metres")
    return tensor


@dataclass(frozen=True, eq=False)
class ArrayGeometry:
    """Elements of an aperture with the wavelength and the wavefront model: the one steering object of the lab.

    Args:
        elements: [..., N, 3], float32 or float64, metres; x, y and z of each, from NumPy too. Positions of sources are
            seen from the origin, which belongs into the middle of the elements.
        wavelength: metres, > 0.
        wavefront: "spherical" (exact), "fresnel" or "planar".
    """

    elements: Tensor
    wavelength: float
    wavefront: str = "spherical"

    def __post_init__(self) -> None:
        check_number("wavelength", self.wavelength, 0.0, exclusive=True)
        check_choice("wavefront", self.wavefront, WAVEFRONTS)
        if not isinstance(self.elements, Tensor):
            object.__setattr__(self, "elements", _positions(self.elements))
        elif self.elements.ndim < 2 or self.elements.shape[-1] != 3:
            raise InputError(f"elements have shape {tuple(self.elements.shape)}; allowed: [N,3], metres")

    @classmethod
    def linear(
        cls, count: int, wavelength: float, wavefront: str = "spherical", *, spacing: float | None = None
    ) -> ArrayGeometry:
        """Uniform linear array along the y axis, centred on the origin, in float64.

        Args:
            count: N.
            wavelength: λ, metres, > 0.
            wavefront: see ArrayGeometry.
            spacing: of neighbours, metres, > 0; λ/2 if None.
        """
        return cls.surface((1, count), wavelength, wavefront, spacing=spacing, dtype=torch.float64)

    @classmethod
    def circular(cls, count: int, wavelength: float, wavefront: str = "spherical", *, radius: float) -> ArrayGeometry:
        """Uniform circular array in the horizontal plane, its first element on the x axis, in float64.

        Args:
            count: N; they follow each other towards the y axis.
            wavelength: λ, metres, > 0.
            wavefront: see ArrayGeometry.
            radius: metres, > 0.
        """
        check_number("count", count, 1, 2**20, integer=True)
        check_number("radius", radius, 0.0, exclusive=True)
        turn = 2 * math.pi / count * torch.arange(count, dtype=torch.float64)
        return cls(radius * torch.stack([turn.cos(), turn.sin(), 0 * turn], dim=-1), wavelength, wavefront)

    @classmethod
    def surface(
        cls,
        shape: tuple[int, int],
        wavelength: float,
        wavefront: str = "spherical",
        *,
        spacing: float | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> ArrayGeometry:
        """Surface in the y-z plane, centred on the origin.

        Args:
            shape: (N_v, N_h), rows along z and columns along y.
            wavelength: λ, metres, > 0.
            wavefront: see ArrayGeometry.
            spacing: of neighbours along both axes, metres, > 0; λ/2 if None.
            dtype: of the elements, real.
            device: of the elements.
        """
        # Every micro-batch asks for this surface: a copy of the cached elements takes a tenth of the time.
        if spacing is not None:
            check_number("spacing", spacing, 0.0, exclusive=True)
        elements = _surface_elements(*shape, wavelength / 2 if spacing is None else spacing)
        return cls(elements.to(device, dtype, copy=True), wavelength, wavefront)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> ArrayGeometry:
        """The same array on a device and in a real dtype."""
        return replace(self, elements=self.elements.to(device=device, dtype=dtype))

    @property
    def count(self) -> int:
        """N, the number of elements."""
        return self.elements.shape[-2]

    def extent(self) -> Tensor:
        """Size of the array along x, y and z, [3], metres, float64."""
        low, high = self.elements.double().flatten(0, -2).aminmax(dim=0)
        return high - low

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
            azimuth: [...], radians.
            elevation: [...], radians.
            range: [...], metres, > 0.

        Returns:
            [..., N], complex, of unit norm; the amplitude is uniform over the aperture by definition.

        Example:
            >>> array = ArrayGeometry.surface((1, 2), wavelength=0.3, wavefront="planar")
            >>> side, level, far = (torch.tensor(value) for value in (torch.pi / 2, 0.0, 9.0))
            >>> array.steering(side, level, far).angle().div(torch.pi).tolist()  # y = ∓λ/4: a quarter of a turn
            [-0.5, 0.5]
        """
        return self._vectors(self.phase(azimuth, elevation, range))

    def _vectors(self, lag: Tensor) -> Tensor:
        return torch.complex(torch.cos(lag), -torch.sin(lag)) / math.sqrt(self.count)

    def phase(self, azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
        """Phase lag k0 (‖p − e_n‖ − r) of each element, [..., N], real."""
        # Autocast would compute the path, and with it the truth, in half precision.
        with torch.autocast(self.elements.device.type, enabled=False):
            return wavenumber(self.wavelength) * path_difference(
                self.elements, azimuth, elevation, range, self.wavefront
            )

    def derivatives(self, azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
        """Derivatives ∂a = −j k0 ∂(path) a of steering() by azimuth, elevation and range.

        Returns:
            [..., 3, N], complex, in 1/rad, 1/rad and 1/m.
        """
        inverse = 1 / range
        vectors, slopes = self.steering_and_phase_gradient(azimuth, elevation, inverse)
        by_range = -inverse.square()[..., None, None] * slopes[..., 2:, :]
        return -1j * torch.cat([slopes[..., :2, :], by_range], dim=-2) * vectors.unsqueeze(-2)

    def steering_and_phase_gradient(
        self, azimuth: Tensor, elevation: Tensor, inverse_range: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Steering vectors with the derivatives of phase() by azimuth, elevation and 1/r ≥ 0.

        Returns:
            [..., N], complex, and [..., 3, N], real.
        """
        factor = wavenumber(self.wavelength)
        with torch.autocast(self.elements.device.type, enabled=False):
            path, slopes = path_and_gradient(self.elements, azimuth, elevation, inverse_range, self.wavefront)
        return self._vectors(factor * path), factor * slopes
