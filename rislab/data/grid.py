"""Search grids: points over azimuth × elevation × range with their steering vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rislab.data.geometry import ArrayGeometry
from rislab.errors import InputError, check_choice, check_interval, check_number

# An interpolation is tested at TRIED points of an axis with BEAMS random beams. Its error may be EXACT times the
# rounding of the dtype, and not less than ROUNDING.
TRIED, BEAMS = 16, 4
EXACT, ROUNDING = 0.25, 1e-14
# The first test has FIRST times the nodes that Chebyshev's own places would need, the next MORE times as many, and so
# on; more nodes than GAIN times the points save no time.
FIRST, MORE, GAIN = 0.65, 1.1, 0.9
# Largest number of entries of the matrix of an axis: with 40 000 points it would take gigabytes and minutes.
LARGEST = 2**22
# Below this number of points the search for nodes costs four times as much as the points themselves.
FEW = 256
# Largest cache of a grid in bytes: 12×12 elements over 181×91 points take 19 MB, over 125 000 points 144 MB.
CACHE_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Grid:
    """Steering vectors over a product grid of azimuth × elevation × range.

    Args:
        array: elements [N,3] with wavelength and wavefront.
        azimuth: [P], radians.
        elevation: [Q], radians.
        range: [R], metres, > 0.
        folds: whether planes() are even and odd parts by the rows and by the columns of a surface; see mirror_parts().
    """

    array: ArrayGeometry
    azimuth: Tensor
    elevation: Tensor
    range: Tensor
    folds: tuple[bool, bool] = (False, False)
    _cache: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict, init=False, repr=False)
    _nodes: dict[torch.dtype, Interpolation] = field(default_factory=dict, init=False, repr=False)

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
        array: ArrayGeometry,
        azimuth: tuple[float, float],
        elevation: tuple[float, float],
        range: tuple[float, float],
        shape: tuple[int, int, int],
        *,
        spacing: str = "uniform",
    ) -> Grid:
        """Grid over intervals of azimuth and elevation (radians) and range (metres), ends included.

        Args:
            array: elements [N,3] with wavelength and wavefront.
            azimuth: (smallest, largest), radians.
            elevation: (smallest, largest), radians.
            range: (smallest, largest), metres, > 0.
            shape: number of points (P, Q, R), each ≥ 1; a single point sits in the middle of its axis.
            spacing: angles "uniform" in radians or equidistant in their "sine"; ranges are always uniform in 1/r,
                the coordinate in which a near-field beam has constant width.

        Returns:
            Grid with float64 axes.

        Raises:
            InputError: for an unknown spacing, a number of points below 1, or ranges that are not above 0.

        Example:
            >>> array = ArrayGeometry.surface((2, 2), 0.3)
            >>> Grid.field_of_view(array, (-1.0, 1.0), (0.0, 0.0), (1.0, 3.0), (3, 1, 3)).range.tolist()
            [3.0, 1.5, 1.0]
        """
        check_choice("spacing", spacing, ("uniform", "sine"))
        check_interval("grid range", range, 0.0, 1e9)
        if not isinstance(shape, tuple | list) or len(shape) != 3:
            raise InputError(f"grid shape is {shape!r}; allowed: three numbers of points, (azimuth, elevation, range)")
        for count in shape:
            check_number("grid shape", count, 1, integer=True)
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

    @cached_property
    def coarser(self) -> Grid:
        """About every second point of each axis, both ends included."""

        def thinned(axis: Tensor) -> Tensor:
            place = torch.linspace(0, len(axis) - 1, len(axis) // 2 + 1, dtype=axis.dtype, device=axis.device)
            first = place.long()
            return torch.lerp(axis[first], axis[(first + 1).clamp(max=len(axis) - 1)], place - first)

        azimuth, elevation, inverse = (thinned(axis) for axis in (self.azimuth, self.elevation, 1 / self.range))
        return replace(self, azimuth=azimuth, elevation=elevation, range=1 / inverse)

    @cached_property
    def folded(self) -> Grid:
        """The quarter or half of the grid whose mirror images are the rest; its planes() are even and odd parts.

        Angles that are halved begin at their middle. The steering vectors of two places that mirror each other at the
        middle of a surface have equal even parts and opposite odd parts.
        """
        axes = self.array.axes()
        if axes is None:
            return self
        by_rows = _is_even(axes[0]) and _is_even(self.elevation)
        by_columns = _is_even(axes[1]) and _is_even(self.azimuth)
        elevation = self.elevation[len(self.elevation) // 2 :] if by_rows else self.elevation
        azimuth = self.azimuth[len(self.azimuth) // 2 :] if by_columns else self.azimuth
        return replace(self, azimuth=azimuth, elevation=elevation, folds=(by_rows, by_columns))

    def interpolation(self, dtype: torch.dtype) -> Interpolation:
        """Fewer points that determine the power of any beam at all points, to the rounding of a real dtype."""
        if dtype not in self._nodes:
            self._nodes[dtype] = Interpolation.of(self, dtype)
        return self._nodes[dtype]

    def points(self) -> tuple[Tensor, Tensor, Tensor]:
        """Azimuth, elevation and range of all P·Q·R points, each [P·Q·R], range running fastest."""
        mesh = torch.meshgrid(self.azimuth, self.elevation, self.range, indexing="ij")
        return mesh[0].reshape(-1), mesh[1].reshape(-1), mesh[2].reshape(-1)

    def steering(self, dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor:
        """Steering vectors of all points, [P·Q·R,N], in a complex dtype; computed in float64."""
        array = self.array.to(device, torch.float64)
        return array.steering(*(axis.to(device, torch.float64) for axis in self.points())).to(dtype)

    def iter_steering(self, dtype: torch.dtype, device: torch.device, width: int) -> Iterator[tuple[slice, Tensor]]:
        """Steering vectors of all points in pieces.

        From the second scan on, all of them are cached if they take no more than CACHE_BYTES. In the first scan, or
        without a cache, they are computed piece by piece in one tensor, so that a grid used once stores nothing.

        Args:
            dtype: real dtype, also that of the computation.
            device: of the result.
            width: most points in a piece.

        Yields:
            Which points, and the real and imaginary parts of their steering vectors side by side, [G',2N].
        """
        count = math.prod(self.shape)
        key = dtype, device
        if key in self._cache and count * 2 * self.array.count * dtype.itemsize <= CACHE_BYTES:
            planes = self.planes(dtype, device)
            yield from ((piece, planes[piece]) for piece in chunks(count, width))
            return
        yield from self._computed(dtype, device, width)
        self._cache.setdefault(key, torch.empty(0))

    def planes(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What iter_steering() yields of all points at once, [P·Q·R,2N]; computed once."""
        key = dtype, device
        if not len(self._cache.get(key, ())):
            planes = empty_huge((math.prod(self.shape), 2 * self.array.count), dtype, device)
            for piece, part in self._computed(dtype, device, len(planes)):
                planes[piece] = part
            self._cache[key] = planes
        return self._cache[key]

    def _computed(self, dtype: torch.dtype, device: torch.device, width: int) -> Iterator[tuple[slice, Tensor]]:
        array = self.array.to(device, dtype)
        places = [axis.to(device, dtype) for axis in self.points()]
        width = min(width, 512)  # so few that they stay in the cache
        scratch = empty_huge((width, 2, array.count), dtype, device)  # one for all pieces
        for piece in chunks(len(places[0]), width):
            lag = array.phase(*(axis[piece] for axis in places))  # [G', N]
            planes = scratch[: len(lag)]
            torch.cos(lag, out=planes[:, 0])
            torch.sin(lag, out=planes[:, 1]).neg_()
            parts = mirror_parts(planes.div_(math.sqrt(array.count)), self.array, self.folds)
            flat = [part.flatten(1) for part in parts]
            yield piece, flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Polynomials through mapped Chebyshev nodes, axis by axis, where a grid samples beam power finer than needed.

    That power is a sum of oscillations; along an axis none is faster than the largest phase difference between two
    elements. The map stretches the nodes towards equal distances [1], which saves a third of them.

    References:
        [1] D. Kosloff, H. Tal-Ezer, A modified Chebyshev pseudospectral method with an O(N⁻¹) time step restriction, J.
            Comput. Phys. 104(2), 1993.
    """

    nodes: Grid  # grid of the nodes; an axis without a gain keeps its own points
    # [n,m] of azimuth, elevation and range: from the nodes of an axis to its points, None without nodes
    matrices: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, grid: Grid, dtype: torch.dtype) -> Interpolation:
        """The interpolation of a grid; see Grid.interpolation()."""
        if math.prod(grid.shape) < FEW:
            return cls(grid, (None, None, None))
        axes = [grid.azimuth.double().cpu(), grid.elevation.double().cpu(), 1 / grid.range.double().cpu()]
        array = grid.array.to("cpu", torch.float64)
        ends = [torch.stack([axis.min(), axis.max()]) for axis in axes]
        mesh = torch.cartesian_prod(*(torch.stack([end[0], end.mean(), end[1]]) for end in ends))
        slopes = array.steering_and_phase_gradient(*mesh.unbind(-1))[1]  # [27, 3, N]
        turns = (slopes.amax(-1) - slopes.amin(-1)).amax(0)
        error = max(EXACT * torch.finfo(dtype).eps, ROUNDING)
        nodes = [grid.azimuth, grid.elevation, grid.range]
        matrices: list[Tensor | None] = [None, None, None]
        for number, (axis, (low, high)) in enumerate(zip(axes, ends, strict=True)):
            # The m-th Chebyshev coefficient is Bessel's J_m(turn), which falls like Airy's function beyond m = turn.
            turn = float(turns[number] * (high - low) / 2)
            tail = (1.5 * math.log(1 / torch.finfo(dtype).eps)) ** (2 / 3) * (turn / 2) ** (1 / 3)
            count = math.ceil(FIRST * (turn + tail)) + 1
            while count < GAIN * len(axis) and count * len(axis) <= LARGEST:
                line, matrix = _chebyshev(axis, low, high, count, error)
                if _error(array, number, axis, line, matrix, ends) <= error:
                    nodes[number], matrices[number] = 1 / line if number == 2 else line, matrix.to(dtype)
                    break
                count = math.ceil(MORE * count)
        return cls(Grid(grid.array, nodes[0], nodes[1], nodes[2]), tuple(matrices))

    def __bool__(self) -> bool:
        return any(matrix is not None for matrix in self.matrices)

    def __call__(self, values: Tensor) -> Tensor:
        """Values [B,P,Q,R] at all points of the grid, from those at the nodes, [B,P',Q',R'], real."""
        across, up, deep = (matrix if matrix is None else matrix.to(values) for matrix in self.matrices)
        if deep is not None:
            values = values @ deep.T
        if up is not None:
            # With one range, all azimuths together are one product instead of many of a matrix and a vector.
            values = up @ values if values.shape[3] > 1 else (values.squeeze(3) @ up.T).unsqueeze(3)
        if across is None:
            return values
        flat = values.flatten(2)
        shape = len(values), len(across), *values.shape[2:]
        if torch.is_grad_enabled() and values.requires_grad:
            return (across @ flat).view(shape)
        result = empty_huge((*shape[:2], flat.shape[2]), values.dtype, values.device)
        return torch.bmm(across.expand(len(values), -1, -1), flat, out=result).view(shape)


def _chebyshev(axis: Tensor, low: Tensor, high: Tensor, count: int, error: float) -> tuple[Tensor, Tensor]:
    """Nodes [m] between the ends of an axis [n], and the matrix [n,m] from values there to those at its points.

    The nodes are asin(α x) / asin(α) of Chebyshev's x, −1 … 1; the branch points at ±1/α cause an error of `error`.
    """
    order = torch.arange(count, dtype=axis.dtype)
    angles = (order + 0.5) * math.pi / count
    decay = error ** (1 / count)
    alpha = 2 * decay / (1 + decay**2)
    half = torch.where(high > low, (high - low) / 2, 1.0)
    points = ((math.asin(alpha) * (axis - (low + high) / 2) / half).sin() / alpha).clamp(-1, 1).acos()
    sums = torch.cos(torch.outer(points, order)) * torch.where(order > 0, 2.0, 1.0)
    line = (low + high) / 2 + (alpha * angles.cos()).asin() / math.asin(alpha) * (high - low) / 2
    return line, sums @ torch.cos(torch.outer(order, angles)) / count


def _error(array: ArrayGeometry, number: int, axis: Tensor, line: Tensor, matrix: Tensor, ends: list[Tensor]) -> float:
    """Largest error of the powers of random beams of norm 1 along an axis, at 9 places of the other two axes."""
    tried = torch.linspace(0, len(axis) - 1, min(TRIED, len(axis))).round().long()
    others = [end for other, end in enumerate(ends) if other != number]
    shares = torch.linspace(0, 1, 5, dtype=axis.dtype)
    corners = torch.cartesian_prod(*(torch.lerp(end[0], end[1], shares) for end in others))[::3]  # [9, 2]
    along = torch.cat([axis[tried], line]).expand(len(corners), -1)
    places = [corner.unsqueeze(-1).expand_as(along) for corner in corners.T]
    places.insert(number, along)
    vectors = array.steering(places[0], places[1], 1 / places[2])  # [9, n' + m, N]
    generator = torch.Generator().manual_seed(0)
    beams = torch.randn(array.count, BEAMS, dtype=vectors.dtype, generator=generator)
    power = (vectors @ (beams / torch.linalg.vector_norm(beams, dim=0)).conj()).abs().square()
    exact, at_nodes = power.split([len(tried), len(line)], dim=1)
    return float((matrix[tried] @ at_nodes - exact).abs().max())


def check_grid(grid: object) -> None:
    """Raise InputError for what is no Grid."""
    if not isinstance(grid, Grid):
        raise InputError(f"grid is a {type(grid).__name__}; allowed: a Grid, such as measurement.grid((181, 91, 1))")


def _is_even(axis: Tensor) -> bool:
    """Whether an axis of more than one value is its own mirror image at 0, to rounding."""
    return len(axis) > 1 and bool(((axis + axis.flip(0)).abs() <= 1e-12 * axis.abs().max()).all())


def mirror_parts(values: Tensor, array: ArrayGeometry, folds: tuple[bool, bool]) -> list[Tensor]:
    """Even and odd parts of values [...,N] on the elements of a surface by its rows, its columns, both or none.

    An orthonormal transform to one, two or four parts [...,n], n adding up to N; even ones first, those by columns next
    to each other.
    """
    axes = array.axes() if any(folds) else None
    parts = [values.unflatten(-1, (-1, len(axes[1]) if axes else 1))]
    for axis, fold in zip((-2, -1), folds, strict=True):
        if fold:
            parts = [half for part in parts for half in _halves(part, axis)]
    return [part.flatten(-2) for part in parts]


def _halves(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    half, count = values.shape[axis] // 2, values.shape[axis]
    low, high = values.narrow(axis, 0, half), values.narrow(axis, count - half, half).flip(axis)
    middle = values.narrow(axis, half, count - 2 * half)
    return torch.cat([(low + high) * math.sqrt(0.5), middle], dim=axis), (low - high) * math.sqrt(0.5)


def empty_huge(shape: tuple[int, ...], dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor:
    """Uninitialised tensor; NumPy asks for huge pages, which torch does not: they make the first use cheap."""
    if str(device) != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, dtype=torch.empty(0, dtype=dtype).numpy().dtype))


def chunks(count: int, width: int) -> Iterator[slice]:
    """Slices of at most `width` that cover 0 … count − 1."""
    return (slice(first, min(first + width, count)) for first in range(0, count, width))
