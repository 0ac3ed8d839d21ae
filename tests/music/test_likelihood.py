"""The likelihood against its dense form, and what polishing makes of an estimate: the bound, and nothing worse."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rislab.data.covariance import sample_factor
from rislab.data.geometry import ArrayGeometry
from rislab.data.measurement import Measurement
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music import likelihood
from rislab.music.crb import crb
from rislab.music.estimate import Estimate
from rislab.music.likelihood import Parameters, bounds_box, fisher_scoring, polish, rss, stochastic_terms
from rislab.music.metrics import match
from rislab.music.spectra import music_spectrum
from tests.music.helpers import measured_again, truth

SMALL = SceneConfig.preset("classroom", ris_shape=(4, 4), antennas=5, snapshots=6, sources=(1, 3), snr_db=10.0)
KINDS = ("deterministic", "stochastic")


def placed(config: SceneConfig, places: list[tuple[float, float, float]], count: int, seed: int = 0) -> SceneBatch:
    """Scenes whose sources stand at given (azimuth, elevation, range), with everything else drawn as always."""
    where = [torch.tensor([place[axis] for place in places]).expand(count, -1) for axis in range(3)]
    batch = simulate(config, count, seed=seed)
    return measured_again(dataclasses.replace(batch, azimuth=where[0], elevation=where[1], range=where[2]), seed)


def shifted(batch: SceneBatch, angle: float, seed: int = 0) -> Estimate:
    """The truth, moved by normal errors of `angle` radians and as much in 1/r, within the field of view."""
    generator = torch.Generator().manual_seed(seed)
    moves = [angle * torch.randn(batch.azimuth.shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    config = batch.config
    return Estimate(
        (batch.azimuth + moves[0]).clamp(*config.azimuth).to(batch.azimuth),
        (batch.elevation + moves[1]).clamp(*config.elevation).to(batch.azimuth),
        (1 / (1 / batch.range + moves[2])).clamp(*config.range).to(batch.azimuth),
        batch.power,
        batch.active,
    )


def errors(one: Estimate, other: Estimate | SceneBatch) -> Tensor:
    """Differences in azimuth, elevation and range of the active slots, [S,3]."""
    parts = [getattr(one, name) - getattr(other, name) for name in ("azimuth", "elevation", "range")]
    return torch.stack(parts, dim=-1)[other.active]


def deviations(batch: SceneBatch, kind: str = "deterministic") -> Tensor:
    """Bounds of the active sources, [S,3]."""
    bound = crb(batch, kind=kind)
    return torch.stack([bound.azimuth, bound.elevation, bound.range], dim=-1)[batch.active]


# ---- brute force ----


def dense_fields(scene: SceneBatch, points: Tensor) -> Tensor:
    """B_l of one scene, [L,M,K]; with constant symbols [1,L·M,K]."""
    azimuth, elevation, inverse = points.unbind(-1)
    vectors = scene.config.array(dtype=torch.float64).steering(azimuth, elevation, 1 / inverse)
    fields = (scene.channel[0] * scene.codes[0].unsqueeze(1)) @ vectors.mT
    return fields.flatten(0, 1).unsqueeze(0) if scene.config.symbols == "constant" else fields


def dense_snapshots(scene: SceneBatch) -> Tensor:
    snapshots = scene.snapshots[0]
    return snapshots.flatten().unsqueeze(0) if scene.config.symbols == "constant" else snapshots


def negative_log_likelihood(scene: SceneBatch, theta: Tensor) -> Tensor:
    """Σ_l ln det R_l + y_l^H R_l^(−1) y_l of points, logarithmic powers and logarithmic noise power."""
    slots = (len(theta) - 1) // 4
    fields, snapshots = dense_fields(scene, theta[: 3 * slots].reshape(slots, 3)), dense_snapshots(scene)
    eye = torch.eye(fields.shape[1], dtype=fields.dtype)
    matrices = (fields * theta[3 * slots : -1].exp()) @ fields.mH + theta[-1].exp() * eye
    fitted = torch.linalg.solve(matrices, snapshots.unsqueeze(-1)).squeeze(-1)
    return torch.linalg.slogdet(matrices).logabsdet.sum() + (snapshots.conj() * fitted).real.sum()


def residual_energy(scene: SceneBatch, points: Tensor) -> Tensor:
    """Σ_l ‖(I − B_l B_l^+) y_l‖²."""
    fields, snapshots = dense_fields(scene, points), dense_snapshots(scene).unsqueeze(-1)
    return (snapshots - fields @ (torch.linalg.pinv(fields) @ snapshots)).abs().square().sum()


def fisher_information(scene: SceneBatch, theta: Tensor) -> Tensor:
    """Σ_l tr(R_l⁻¹ ∂_iR_l R_l⁻¹ ∂_jR_l) with derivatives by autograd."""
    slots = (len(theta) - 1) // 4

    def covariances(theta: Tensor) -> Tensor:
        fields = dense_fields(scene, theta[: 3 * slots].reshape(slots, 3))
        eye = torch.eye(fields.shape[1], dtype=fields.dtype)
        return torch.view_as_real((fields * theta[3 * slots : -1].exp()) @ fields.mH + theta[-1].exp() * eye)

    changes = torch.autograd.functional.jacobian(covariances, theta, vectorize=True).movedim(-1, 0).contiguous()
    inverse = torch.linalg.inv(torch.view_as_complex(covariances(theta)))
    whitened = inverse @ torch.view_as_complex(changes)
    return torch.einsum("ilmn,jlnm->ij", whitened, whitened).real


def somewhere(batch: SceneBatch, seed: int) -> Parameters:
    """Random points in the field of view with random powers."""
    generator = torch.Generator().manual_seed(seed)
    low, high = bounds_box(batch)
    draws = torch.rand(*batch.active.shape, 4, generator=generator, dtype=torch.float64)
    power = torch.where(batch.active, 36 * (0.1 + draws[..., 3]), 0)
    noise = 10 * (0.1 + torch.rand(len(batch), generator=generator, dtype=torch.float64))
    return Parameters(low + (high - low) * draws[..., :3], power, noise, batch.active)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6), symbols=st.sampled_from(["varying", "constant", "coherent"]))
def test_the_stochastic_likelihood_its_gradient_and_information_are_those_of_the_dense_form(
    seed: int, symbols: str
) -> None:
    batch = simulate(dataclasses.replace(SMALL, symbols=symbols), 2, seed=seed).to(dtype=torch.float64)
    state = somewhere(batch, seed)
    value, gradient, information = likelihood.stochastic_terms(batch, state)
    slots = batch.active.shape[1]
    for number, count in enumerate(batch.active.sum(-1).tolist()):
        theta = torch.cat(
            [
                state.points[number, :count].flatten(),
                state.power[number, :count].log(),
                state.noise_power[number].log()[None],
            ]
        ).requires_grad_()
        scene = batch[number]
        expected = negative_log_likelihood(scene, theta)
        torch.testing.assert_close(value[number], expected.detach(), rtol=1e-9, atol=0)
        (slope,) = torch.autograd.grad(expected, theta)
        own = torch.cat([torch.arange(3 * count), 3 * slots + torch.arange(count), torch.tensor([4 * slots])])
        torch.testing.assert_close(gradient[number, own], slope, rtol=1e-7, atol=1e-7 * float(slope.abs().max()))
        dense = fisher_information(scene, theta.detach())
        bound = information[number][own][:, own]
        torch.testing.assert_close(bound, dense, rtol=1e-7, atol=1e-9 * float(dense.abs().max()))
        others = torch.ones(4 * slots + 1, dtype=torch.bool)
        others[own] = False
        assert bool((gradient[number, others] == 0).all()) and bool((information[number][others] == 0).all())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), symbols=st.sampled_from(["varying", "constant", "coherent"]))
def test_the_residual_energy_and_its_gradient_are_those_of_the_dense_projection(seed: int, symbols: str) -> None:
    batch = simulate(dataclasses.replace(SMALL, symbols=symbols), 3, seed=seed).to(dtype=torch.float64)
    state = somewhere(batch, seed)
    value, gradient, curvature = likelihood.deterministic_terms(batch, state.points, state.active)
    azimuth, elevation, inverse = state.points.unbind(-1)
    torch.testing.assert_close(rss(batch, Estimate(azimuth, elevation, 1 / inverse, state.power, state.active)), value)
    for number, count in enumerate(batch.active.sum(-1).tolist()):
        points = state.points[number, :count].clone().requires_grad_()
        expected = residual_energy(batch[number], points)
        # Two random sources may stand close together: the projection is then known to eps times the condition.
        torch.testing.assert_close(value[number], expected.detach(), rtol=1e-7, atol=0)
        slope = torch.autograd.grad(expected, points)[0].flatten()
        scale = float(slope.abs().max())
        torch.testing.assert_close(gradient[number, : 3 * count], slope, rtol=1e-6, atol=1e-6 * scale)
        assert bool((gradient[number, 3 * count :] == 0).all())
        assert float(torch.linalg.eigvalsh(curvature[number])[0]) > -1e-9 * float(curvature[number].abs().max())


# With constant symbols the stochastic bound draws a waveform for each snapshot, the likelihood one for all of them:
# only the deterministic model is common to both.
@pytest.mark.parametrize(
    ("kind", "symbols"), [("deterministic", "varying"), ("deterministic", "constant"), ("stochastic", "varying")]
)
def test_the_curvature_of_the_descent_is_the_information_of_the_bound(kind: str, symbols: str) -> None:
    # Without noise in the snapshots the waveforms of least squares are the true ones.
    batch = measured_again(simulate(dataclasses.replace(SMALL, sources=2, symbols=symbols), 3, seed=1))
    points = torch.stack([batch.azimuth, batch.elevation, 1 / batch.range], dim=-1)
    if kind == "deterministic":
        signal = (batch.received_fields(batch.steering()) @ batch.symbols.unsqueeze(-1)).squeeze(-1)
        clean = dataclasses.replace(batch, snapshots=signal)
        information = likelihood.deterministic_terms(clean, points, batch.active)[2] / batch.noise_power[:, None, None]
    else:
        state = Parameters(points, batch.power, batch.noise_power, batch.active)
        information = likelihood.stochastic_terms(batch, state)[2]
    deviation = torch.linalg.inv(information)[:, :6, :6].diagonal(dim1=1, dim2=2).sqrt().unflatten(1, (2, 3))
    deviation[..., 2] *= batch.range.square()  # from 1/r to r
    torch.testing.assert_close(deviation.flatten(0, 1), deviations(batch, kind), rtol=1e-6, atol=0)


# ---- polishing ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symbols", ["varying", "constant", "coherent"])
def test_polish_returns_to_the_truth_where_there_is_next_to_no_noise(kind: str, symbols: str) -> None:
    config = SceneConfig.preset(
        "classroom", snr_db=100.0, separation=math.radians(25), symbols=symbols, sources=2, azimuth=(-0.9, 0.9)
    )
    batch = measured_again(simulate(config, 20, seed=2))
    start = shifted(batch, math.radians(1.0))
    # Coherent waveforms are not those of independent powers: scoring with the latter takes more steps to the same end.
    ended = polish(batch, start, kind=kind, steps=200)
    limit = deviations(batch)
    # The start is a thousand standard deviations away, the end within six of them (three would do for most draws).
    assert float((errors(start, batch)[:, :2].abs() / limit[:, :2]).median()) > 1e3
    assert float((errors(ended, batch).abs() / limit).max()) < 6
    assert torch.equal(ended.active, batch.active)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_polish_reaches_the_bound(kind: str) -> None:
    # The reference of the lab: three sources well inside the field of view. 200 scenes give 600 errors a coordinate,
    # whose RMS scatters by 1/√1200 = 2.9 %; the bound is a lower one, met within a few per cent at 15 dB.
    config = SceneConfig.preset("full", sources=3, snr_db=15.0)
    batch = placed(config, [(-0.5, 0.2, 3.0), (0.1, -0.3, 4.0), (0.6, 0.1, 2.5)], 200).to(dtype=torch.float32)
    matching = match(polish(batch, truth(batch), kind=kind), batch)
    assert matching.recall == 1.0
    ratio = matching.ratio(crb(batch))
    for name in ("azimuth", "elevation", "range"):
        assert 0.9 < ratio[name] < 1.15, ratio


def test_polish_takes_music_to_the_bound() -> None:
    config = SceneConfig.preset("classroom", sources=1, snr_db=15.0, azimuth=(-0.8, 0.8), range=(0.7, 2.0))
    batch = simulate(config, 150, seed=3)
    start = music_spectrum(sample_factor(batch), 1, config.grid((25, 13, 6))).peaks
    before, after = (match(estimate, batch) for estimate in (start, polish(batch, start)))
    assert after.recall >= before.recall
    # 150 errors: their RMS scatters by 6 %.
    assert after.ratio(crb(batch))["azimuth"] < 1.25 < before.ratio(crb(batch))["azimuth"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symbols", ["varying", "constant"])
def test_polish_never_makes_it_less_likely(kind: str, symbols: str) -> None:
    batch = simulate(SceneConfig.preset("classroom", symbols=symbols), 30, seed=4)
    for start in (truth(batch), shifted(batch, 0.02), shifted(batch, 0.5, seed=1)):
        if kind == "deterministic":
            before, after = rss(batch, start), rss(batch, polish(batch, start, kind=kind))
            # rss() starts from ranges in metres, a rounding away from the 1/r of the descent.
            assert bool((after <= before * (1 + 1e-4)).all())
            assert float((after / before).min()) < 0.999
        else:
            points = likelihood.points_of(start)
            state = likelihood.initial_parameters(batch, points, start.active)
            before, after = fisher_scoring(batch, state, 0)[1], fisher_scoring(batch, state, 30)[1]
            assert bool((after <= before).all())
            assert float((before - after).max()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_polish_ends_wherever_it_starts(kind: str, dtype: torch.dtype) -> None:
    batch = simulate(SceneConfig.preset("classroom"), 30, seed=4).to(dtype=dtype)
    # From far away steps run into corners where sources coincide and powers vanish: singular in single precision.
    far = polish(batch, shifted(batch, 0.5, seed=1), kind=kind)
    first = truth(batch)
    names = ("azimuth", "elevation", "range", "power")
    twins = dataclasses.replace(first, **{name: getattr(first, name)[:, :1].expand(-1, 3) for name in names})
    for ended in (far, polish(batch, twins, kind=kind)):
        assert all(bool(torch.isfinite(getattr(ended, name)).all()) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_no_steps_leave_places_where_they_are(kind: str, classroom: SceneBatch) -> None:
    start = shifted(classroom, 0.02)
    ended = polish(classroom, start, kind=kind, steps=0)
    # Through 1/r and back.
    assert float(errors(ended, start).abs().max()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_inactive_slots_stay_inactive_and_count_for_nothing(kind: str) -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=15.0), 12, seed=5).to(dtype=torch.float64)
    start = shifted(batch, 0.01)
    empty = ~batch.active
    assert bool(empty.any())
    fields = ("azimuth", "elevation", "range", "power")
    holes = dataclasses.replace(start, **{name: getattr(start, name).masked_fill(empty, math.nan) for name in fields})
    ended, other = polish(batch, start, kind=kind), polish(batch, holes, kind=kind)
    for result in (ended, other):
        assert torch.equal(result.active, batch.active)
        assert bool((result.power[empty] == 0).all())
        assert all(bool(torch.isfinite(getattr(result, name)).all()) for name in fields)
    torch.testing.assert_close(errors(other, batch), errors(ended, batch), atol=1e-9, rtol=0)
    # A slot more, switched off, changes nothing either.
    wider = Estimate(*(torch.nn.functional.pad(getattr(start, f.name), (1, 0)) for f in dataclasses.fields(start)))
    third = polish(batch, wider, kind=kind)
    for name in ("azimuth", "elevation", "range"):
        one, two = getattr(third, name)[:, 1:][batch.active], getattr(ended, name)[batch.active]
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_are_polished_each_by_itself(kind: str) -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=15.0), 6, seed=6).to(dtype=torch.float64)
    start = shifted(batch, 0.02)
    together = polish(batch, start, kind=kind)
    for number in range(6):
        own = Estimate(*(getattr(start, field.name)[number : number + 1] for field in dataclasses.fields(start)))
        alone = polish(batch[number], own, kind=kind)
        for field in dataclasses.fields(alone):
            one, other = getattr(alone, field.name)[0], getattr(together, field.name)[number]
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_both_models_agree_where_noise_is_small() -> None:
    config = SceneConfig.preset("classroom", snr_db=60.0, separation=math.radians(25), sources=2, azimuth=(-0.9, 0.9))
    batch = measured_again(simulate(config, 20, seed=7))
    ended = [polish(batch, truth(batch), kind=kind) for kind in KINDS]
    # They differ by a term of the order of the noise power: far less than either errs.
    assert float((errors(*ended).abs() / deviations(batch)).max()) < 0.05


def test_powers_are_those_of_the_waveforms() -> None:
    config = SceneConfig.preset("classroom", snr_db=40.0, separation=math.radians(25), power_law="free-space")
    batch = measured_again(simulate(config, 10, seed=8))
    drawn = batch.symbols.abs().square().mean(1)
    for kind in KINDS:
        power = polish(batch, truth(batch), kind=kind).power
        # Noise of 1e-4 of the signal adds to a power, and more so where a source is weak.
        torch.testing.assert_close(power[batch.active], drawn[batch.active].to(power), rtol=0.05, atol=0.05)


def test_estimates_stay_within_the_field_of_view() -> None:
    config = SceneConfig.preset("classroom", snr_db=0.0, azimuth=(-0.2, 0.2), range=(1.0, 1.5))
    batch = simulate(config, 30, seed=9)
    for kind in KINDS:
        ended = polish(batch, truth(batch), kind=kind)
        at_edge = 0
        for name in ("azimuth", "elevation", "range"):
            low, high = getattr(config, name)
            place = getattr(ended, name)[ended.active]
            assert float(place.min()) >= low - 1e-6 and float(place.max()) <= high + 1e-6
            at_edge += int(((place - low).abs() < 1e-6).sum() + ((place - high).abs() < 1e-6).sum())
        assert at_edge > 0
        # What comes out can go in again.
        polish(batch, ended, kind=kind, steps=1)


# ---- what is refused ----


def test_estimates_that_cannot_be_polished_are_refused(classroom: SceneBatch) -> None:
    start = truth(classroom)
    assert bool(start.active[5, 0])

    def with_value(name: str, value: float) -> Estimate:
        values = getattr(start, name).clone()
        values[5, 0] = value
        return dataclasses.replace(start, **{name: values})

    for name, value in (("azimuth", 1.2), ("azimuth", -1.2), ("elevation", 0.6), ("range", 0.3), ("range", 3.2)):
        with pytest.raises(InputError, match=f"{name} of an estimate is {value:g}; allowed: .* the field of view"):
            polish(classroom, with_value(name, value))
    for name in ("azimuth", "elevation", "range"):
        with pytest.raises(InputError, match="an active estimate holds NaN or infinity"):
            polish(classroom, with_value(name, math.nan))
    with pytest.raises(InputError, match="kind is 'bayesian'; allowed: 'deterministic', 'stochastic'"):
        polish(classroom, start, kind="bayesian")
    with pytest.raises(InputError, match="estimate has 128 scenes, and the batch 3"):
        polish(classroom[:3], start)
    for steps in (-1, 1.5, True):
        with pytest.raises(InputError, match="steps is"):
            polish(classroom, start, steps=steps)


def test_as_many_estimates_as_antennas_are_refused_unless_one_waveform_serves_all_snapshots() -> None:
    config = dataclasses.replace(SMALL, antennas=3, sources=3)
    batch = simulate(config, 2, seed=0)
    with pytest.raises(InputError, match="a scene has 3 estimates; allowed: fewer than 3, the antennas that see them"):
        polish(batch, truth(batch))
    constant = simulate(dataclasses.replace(config, symbols="constant"), 2, seed=0)
    assert bool(torch.isfinite(polish(constant, truth(constant)).azimuth).all())


def test_snapshots_of_one_code_add_up() -> None:
    # An array without a surface: all snapshots together are computed at once, each by itself in the general way.
    array = ArrayGeometry.linear(6, 0.1, "planar")
    generator = torch.Generator().manual_seed(3)
    snapshots = torch.randn(2, 5, 6, dtype=torch.complex128, generator=generator)
    together = Measurement.direct(snapshots, array, elevation=0.0)
    points = torch.tensor([[[0.2, 0.0, 0.1], [-0.4, 0.0, 0.1]]], dtype=torch.float64).repeat(2, 1, 1)
    power = torch.tensor([[3.0, 1.0], [2.0, 5.0]], dtype=torch.float64)
    noise_power = torch.tensor([0.5, 2.0], dtype=torch.float64)
    parameters = Parameters(points, power, noise_power, torch.tensor([[True, True], [True, False]]))
    alone = [
        stochastic_terms(Measurement.direct(snapshots[:, snapshot : snapshot + 1], array, elevation=0.0), parameters)
        for snapshot in range(5)
    ]
    for whole, parts in zip(stochastic_terms(together, parameters), zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, sum(parts), rtol=1e-10, atol=1e-10)
