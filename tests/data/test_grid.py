"""Search grids: their points, and axes that are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rislab.data.geometry import ArrayGeometry
from rislab.data.grid import Grid
from rislab.errors import InputError

SURFACE = ArrayGeometry.surface((6, 6), 0.3, dtype=torch.float64)


def test_grid_spans_its_interval_and_is_uniform_in_inverse_range() -> None:
    grid = Grid.field_of_view(SURFACE, (-1.0, 1.0), (-0.5, 0.5), (0.5, 10.0), (5, 3, 4))
    assert grid.shape == (5, 3, 4)
    assert grid.azimuth.tolist() == pytest.approx([-1.0, -0.5, 0.0, 0.5, 1.0])
    steps = (1 / grid.range).diff()
    assert steps.std() == pytest.approx(0.0, abs=1e-12)
    assert sorted(grid.range.tolist())[0] == pytest.approx(0.5)
    assert all(axis.numel() == 60 for axis in grid.points())
    sines = torch.sin(
        Grid.field_of_view(SURFACE, (-1.0, 1.0), (0, 0), (1, 1), (7, 1, 1), spacing="sine").azimuth
    ).diff()
    assert float(sines.std()) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["azimuth", "elevation", "range"])
@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (torch.empty(0), "has shape .*allowed: one axis of at least one point"),
        (torch.ones(2, 2), "has shape .*allowed: one axis of at least one point"),
        (torch.tensor([1.0, math.nan]), "holds NaN or infinity"),
        (torch.tensor([1.0, math.inf]), "holds NaN or infinity"),
    ],
)
def test_a_grid_without_points_is_refused(name: str, axis: Tensor, message: str) -> None:
    axes = {"azimuth": torch.ones(1), "elevation": torch.ones(1), "range": torch.ones(1), name: axis}
    with pytest.raises(InputError, match=f"grid {name} {message}"):
        Grid(SURFACE, **axes)


@pytest.mark.parametrize("smallest", [0.0, -1.0])
def test_ranges_are_above_zero(smallest: float) -> None:
    with pytest.raises(InputError, match="grid range is .*allowed: above 0"):
        Grid(SURFACE, torch.ones(1), torch.ones(1), torch.tensor([1.0, smallest]))
    with pytest.raises(InputError, match="grid range is"):
        Grid.field_of_view(SURFACE, (0.0, 1.0), (0.0, 1.0), (smallest, 2.0), (2, 2, 2))
    with pytest.raises(InputError, match="grid shape is 0"):
        Grid.field_of_view(SURFACE, (0.0, 1.0), (0.0, 1.0), (1.0, 2.0), (2, 0, 2))
    for shape in ((91,), 91, "91"):
        with pytest.raises(InputError, match="allowed: three numbers of points"):
            Grid.field_of_view(SURFACE, (0.0, 1.0), (0.0, 1.0), (1.0, 2.0), shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("wavefront", ["spherical", "planar"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_powers_between_few_nodes_are_exact_to_rounding(wavefront: str, dtype: torch.dtype, error: float) -> None:
    arrays = {
        "surface": ArrayGeometry.surface((6, 8), 0.3, wavefront),
        "circle": ArrayGeometry.circular(7, 0.1, wavefront, radius=0.06),
        "any": ArrayGeometry(torch.rand(9, 3, generator=torch.Generator().manual_seed(0)), 0.5, wavefront),
    }
    for name, array in arrays.items():
        grid = Grid.field_of_view(array, (-math.pi, math.pi), (-0.5, 0.6), (0.7, 30.0), (180, 70, 2))
        # An axis of other spacing, and one too short to gain.
        grid = Grid(array, grid.azimuth.sin(), grid.elevation, grid.range)
        interpolation = grid.interpolation(dtype)
        nodes = interpolation.nodes
        assert interpolation and math.prod(nodes.shape) < math.prod(grid.shape), name
        generator = torch.Generator().manual_seed(1)
        beams = torch.linalg.qr(torch.randn(array.count, 2, dtype=torch.complex128, generator=generator)).Q
        at_nodes, exact = ((one.steering(torch.complex128).conj() @ beams).abs().square() for one in (nodes, grid))
        values = interpolation(at_nodes.to(dtype).sum(-1).view(1, *nodes.shape))
        assert float((values.flatten() - exact.sum(-1)).abs().max()) < error, name


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_powers_of_the_near_field_are_exact_between_nodes_of_three_axes(dtype: torch.dtype, error: float) -> None:
    array = ArrayGeometry.surface((8, 8), 0.3, dtype=torch.float64)
    grid = Grid.field_of_view(array, (-1.05, 1.05), (-0.52, 0.52), (1.0, 10.0), (60, 48, 40))
    interpolation = grid.interpolation(dtype)
    assert all(few < all_ for few, all_ in zip(interpolation.nodes.shape, grid.shape, strict=True))
    # Beams towards sources have the largest powers, and random ones all kinds of oscillations.
    sources = array.steering(*torch.tensor([[0.31, -0.9], [0.11, 0.4], [1.3, 7.0]], dtype=torch.float64)).T
    other = torch.randn(array.count, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    for beams in (torch.linalg.qr(sources).Q, torch.linalg.qr(other).Q):
        at_nodes, exact = (
            (one.steering(torch.complex128).conj() @ beams).abs().square().sum(-1)
            for one in (interpolation.nodes, grid)
        )
        values = interpolation(at_nodes.to(dtype).view(1, *interpolation.nodes.shape))
        assert float((values.flatten() - exact).abs().max()) < error


@pytest.mark.parametrize("count", [1, 2, 3, 50, 52, 91])
def test_a_coarser_grid_has_both_ends_and_steps_of_at_most_two(count: int) -> None:
    grid = Grid.field_of_view(SURFACE, (-1.0, 1.0), (0.2, 0.4), (1.0, 9.0), (count, count, count)).coarser
    assert grid.shape == (count // 2 + 1,) * 3
    for axis, ends in ((grid.azimuth, (-1, 1)), (grid.elevation, (0.2, 0.4)), (1 / grid.range, (1 / 9, 1))):
        if count > 1:
            torch.testing.assert_close(axis[[0, -1]], torch.tensor(ends, dtype=torch.float64))
            assert float(axis.diff().max()) < 2.001 * (ends[1] - ends[0]) / (count - 1)
    assert count == 1 or float((grid.azimuth + grid.azimuth.flip(0)).abs().max()) < 1e-14


def test_a_grid_near_the_width_of_a_beam_has_no_fewer_nodes() -> None:
    array = ArrayGeometry.surface((12, 12), 0.3)
    grid = Grid.field_of_view(array, (-1.0, 1.0), (-0.5, 0.5), (1.0, 10.0), (29, 17, 7))
    assert not grid.interpolation(torch.float32)
    assert grid.interpolation(torch.float32).nodes.shape == grid.shape


def test_a_line_of_few_points_is_not_searched_for_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    array = ArrayGeometry.surface((12, 12), 0.3)
    monkeypatch.setattr(ArrayGeometry, "steering_and_phase_gradient", lambda *unused: pytest.fail("searched"))
    line = Grid.field_of_view(array, (0.1, 0.1), (0.2, 0.2), (1.0, 10.0), (1, 1, 200))
    assert not line.interpolation(torch.float32) and line.interpolation(torch.float32).nodes is line


def test_an_axis_of_very_many_points_has_no_matrix() -> None:
    """Of an array of thousands of wavelengths it would take gigabytes, and minutes."""
    array = ArrayGeometry.circular(8, 0.1, "planar", radius=100.0)
    wide = Grid(array, torch.linspace(-1, 1, 40_000, dtype=torch.float64), torch.zeros(1), torch.ones(1))
    assert not wide.interpolation(torch.float64)
