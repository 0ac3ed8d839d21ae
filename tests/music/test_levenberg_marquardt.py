"""Descents: quadratics, boxes, curved valleys and undefined places, and that problems do not feel each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rislab.music.levenberg_marquardt import Minimum, Model, levenberg_marquardt

FREE = torch.full((1,), 1e6, dtype=torch.float64)


def quadratics(count: int, size: int, seed: int) -> tuple[Model, Tensor, Tensor]:
    """½ (x − c)^T J (x − c) with random J (condition below about 100) and c: the model, J and c."""
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(count, size, size, generator=generator, dtype=torch.float64)).Q
    values = 10 ** (2 * torch.rand(count, size, generator=generator, dtype=torch.float64) - 1)
    curvature = (turned * values.unsqueeze(-2)) @ turned.mT
    centre = torch.randn(count, size, generator=generator, dtype=torch.float64)

    def model(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        away = points - centre[rows]
        slope = (curvature[rows] @ away.unsqueeze(-1)).squeeze(-1)
        return (away * slope).sum(-1) / 2, slope, curvature[rows]

    return model, curvature, centre


def rosenbrock(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least squares of the residuals 10 (y − x²) and 1 − x, whose curved valley defeats undamped steps."""
    x, y = points.unbind(-1)
    residual = torch.stack([10 * (y - x.square()), 1 - x], dim=-1)
    jacobian = torch.zeros(len(points), 2, 2, dtype=points.dtype)
    jacobian[:, 0, 0], jacobian[:, 0, 1], jacobian[:, 1, 0] = -20 * x, 10.0, -1.0
    slope = 2 * (jacobian.mT @ residual.unsqueeze(-1)).squeeze(-1)
    return residual.square().sum(-1), slope, 2 * jacobian.mT @ jacobian


def solved(model: Model, start: Tensor, low: Tensor = -FREE, high: Tensor = FREE, steps: int = 200) -> Minimum:
    return levenberg_marquardt(model, start, low, high, xtol=1e-12, value_eps=1e-15, ftol=0.0, steps=steps)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_a_quadratic_is_solved_in_a_few_steps(size: int, seed: int) -> None:
    model, _, centre = quadratics(3, size, seed)
    start = torch.zeros_like(centre)
    # The damping is 1e-3, 1e-4, …: with eigenvalues above 1e-3 of the scaled curvature five steps leave below 1e-9.
    assert float((solved(model, start, steps=5).point - centre).abs().max()) < 1e-9
    assert torch.equal(solved(model, start, steps=0).point, start)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_in_a_box_the_conditions_of_optimality_hold(size: int, seed: int) -> None:
    model, _, centre = quadratics(4, size, seed)
    low, high = torch.full((size,), -0.4, dtype=torch.float64), torch.full((size,), 0.3, dtype=torch.float64)
    ended = solved(model, torch.zeros_like(centre), low, high, steps=500)
    assert bool(((ended.point >= low) & (ended.point <= high)).all())
    _, slope, _ = model(ended.point, torch.arange(4))
    # Nothing pulls a free coordinate; one at an edge is pulled outwards or not at all. Slopes are of order 1, and near
    # the minimum the value is flat to rounding within √1e-15 = 3e-8.
    at_low, at_high = ended.point == low, ended.point == high
    assert float(slope[~at_low & ~at_high].abs().amax() if (~at_low & ~at_high).any() else 0) < 1e-5
    assert bool((slope[at_low] > -1e-5).all()) and bool((slope[at_high] < 1e-5).all())


def test_a_minimum_outside_the_box_ends_at_its_edge_and_equal_ends_hold_a_coordinate() -> None:
    centre = torch.tensor([[5.0, -5.0, 0.25, 3.0]], dtype=torch.float64)

    def model(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        away = points - centre[rows]
        return away.square().sum(-1), 2 * away, 2 * torch.eye(4, dtype=points.dtype).expand(len(points), -1, -1)

    low = torch.tensor([-1.0, -1.0, -1.0, 0.5], dtype=torch.float64)
    high = torch.tensor([1.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    start = torch.tensor([[0.0, 0.0, 0.0, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[1.0, -1.0, 0.25, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(solved(model, start, low, high).point, expected, atol=1e-9, rtol=0)


def test_a_curved_valley_is_followed_to_its_end() -> None:
    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [3.0, -3.0], [-4.0, 8.0]], dtype=torch.float64)
    ended = solved(rosenbrock, start)
    torch.testing.assert_close(ended.point, torch.ones_like(start), atol=1e-8, rtol=0)
    assert float(ended.value.max()) < 1e-16


def test_the_value_never_rises_and_is_that_of_the_point() -> None:
    start = torch.tensor([[-1.2, 1.0], [3.0, -3.0]], dtype=torch.float64)
    before = rosenbrock(start, torch.arange(2))[0]
    for steps in range(12):
        ended = solved(rosenbrock, start, steps=steps)
        assert bool((ended.value <= before).all())
        torch.testing.assert_close(ended.value, rosenbrock(ended.point, torch.arange(2))[0])
        before = ended.value


def test_undefined_places_are_never_taken() -> None:
    def model(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = points[:, 0]
        # The minimum at x = 2 lies in the middle of what is not defined.
        value = torch.where(x > 1, torch.nan, (x - 2).square())
        return value, 2 * (points - 2), torch.full((len(points), 1, 1), 2.0, dtype=points.dtype)

    ended = solved(model, torch.tensor([[0.0], [0.9], [-7.0]], dtype=torch.float64))
    assert bool(torch.isfinite(ended.value).all())
    assert bool((ended.point <= 1).all())
    # Damping shortens the steps until they stay outside: a good part of the way to the border is still made.
    assert bool((ended.value <= torch.tensor([4.0, 1.21, 81.0], dtype=torch.float64)).all())
    assert float(ended.value[2]) < 20


def test_a_problem_that_is_undefined_at_its_start_stays_there_and_harms_no_other() -> None:
    def model(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bad = (rows == 1).unsqueeze(-1)
        away = torch.where(bad, torch.nan, points - 3)
        curvature = torch.where(bad.unsqueeze(-1), torch.nan, torch.eye(2, dtype=points.dtype))
        return away.square().sum(-1) / 2, away, curvature

    start = torch.zeros(3, 2, dtype=torch.float64)
    ended = solved(model, start)
    assert torch.equal(ended.point[1], start[1])
    torch.testing.assert_close(ended.point[[0, 2]], torch.full((2, 2), 3.0, dtype=torch.float64), atol=1e-9, rtol=0)


def test_a_coordinate_without_curvature_rests() -> None:
    def model(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.stack([points[:, 0] - 1, torch.zeros_like(points[:, 0])], dim=-1)
        curvature = torch.diag(torch.tensor([1.0, 0.0], dtype=points.dtype)).expand(len(points), -1, -1)
        return (points[:, 0] - 1).square() / 2, slope, curvature

    ended = solved(model, torch.tensor([[0.0, 0.7]], dtype=torch.float64))
    torch.testing.assert_close(ended.point, torch.tensor([[1.0, 0.7]], dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_curvature_without_full_rank_is_no_obstacle_however_small_the_damping_gets(dtype: torch.dtype) -> None:
    def model(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # (x + y)⁴: each step succeeds and falls short, so that the damping sinks below rounding.
        t = points.sum(-1, keepdim=True)
        return t.squeeze(-1) ** 4, (4 * t**3).repeat(1, 2), (12 * t**2).unsqueeze(-1).repeat(1, 2, 2)

    end = torch.full((1,), 10.0, dtype=dtype)
    start = torch.tensor([[1.0, 1.0], [2.0, -1.0]], dtype=dtype)
    ended = levenberg_marquardt(model, start, -end, end, xtol=0.0, value_eps=0.0, ftol=0.0, steps=60)
    assert float(ended.value.max()) < 1e-6


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_problems_do_not_depend_on_their_neighbours(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = 3 * torch.randn(6, 2, generator=generator, dtype=torch.float64)
    # Cut off on the way, where a different path would show.
    together = solved(rosenbrock, start, steps=7)
    for number in range(len(start)):
        alone = solved(rosenbrock, start[number : number + 1], steps=7)
        torch.testing.assert_close(alone.point, together.point[number : number + 1], atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(alone.value, together.value[number : number + 1], atol=1e-10, rtol=1e-8)
