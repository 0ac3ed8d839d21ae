"""Model order: sources are counted rightly, and every number is that of the formula."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music.estimate import Estimate
from rislab.music.likelihood import fisher_scoring, initial_parameters, points_of, polish, rss
from rislab.music.model_order import (
    CRITERIA,
    information_criterion,
    model_order,
    order_by_eigenvalues,
    order_criteria,
    values_by_order,
)
from rislab.music.sparse import sparse
from tests.music.helpers import counted, measured_again

CLASSROOM = SceneConfig.preset("classroom", snr_db=20.0, separation=math.radians(20))
SMALL = SceneConfig.preset("classroom", ris_shape=(4, 4), antennas=5, snapshots=6, sources=(1, 3), snr_db=10.0)


@pytest.mark.parametrize("most", [0, 8, 1.5, True])
def test_orders_out_of_range_are_refused(most: int) -> None:
    with pytest.raises(InputError, match="most is"):
        model_order(simulate(CLASSROOM, 2, seed=0), most)


@pytest.mark.slow
def test_sources_are_counted_where_they_are_weak() -> None:
    config = SceneConfig.preset("full", sources=(1, 3), snr_db=0.0, separation=math.radians(10))
    batch = simulate(config, 24, seed=9)
    calls: list[tuple[int, int]] = []
    counts = model_order(batch, 4, progress=lambda done, of: calls.append((done, of)))
    # Right in 0.97 of 300 scenes; as if waveforms were unknown constants, three sources are never counted.
    assert float((counts == counted(batch)).double().mean()) >= 0.9
    assert calls == [(number, 4) for number in range(1, 5)]
    assert bool((model_order(batch[counted(batch) == 3], 4, criterion="mdl") < 3).all())


def test_what_a_fit_leaves_of_strong_sources_is_no_further_source() -> None:
    batch = simulate(SceneConfig.preset("full", snr_db=20.0, sources=(1, 2)), 12, seed=2)
    assert torch.equal(model_order(batch, 4), counted(batch))


@pytest.mark.slow
def test_order_is_the_smallest_criterion_of_its_own_fits() -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=(0.0, 10.0)), 3, seed=10).to(dtype=torch.float64)
    energy = batch.snapshots.abs().square().sum((1, 2))
    lefts = [energy, *(rss(batch, polish(batch, sparse(batch, count))) for count in (1, 2, 3))]
    for criterion in ("mdl", "aic"):
        scores = [information_criterion(batch, left, k, criterion=criterion) for k, left in enumerate(lefts)]
        assert torch.equal(model_order(batch, 3, criterion=criterion), torch.stack(scores).argmin(0))
    values = values_by_order(batch, 3, every=True)
    assert all(bool((after < before).all()) for before, after in itertools.pairwise(values))
    scores = [information_criterion(batch, value, k) for k, value in enumerate(values)]
    assert torch.equal(model_order(batch, 3), torch.stack(scores).argmin(0))
    with pytest.raises(InputError, match="criterion is 'cic'; allowed: 'bic', 'mdl', 'aic'"):
        model_order(batch, 1, criterion="cic")


def test_likelihoods_are_those_of_the_full_covariance() -> None:
    batch = simulate(dataclasses.replace(SMALL, snr_db=10.0), 2, seed=4).to(dtype=torch.float64)
    none, one = values_by_order(batch, 1, every=True)
    for scene in range(2):
        snapshots = batch.snapshots[scene]
        level = snapshots.abs().square().mean()
        assert float(none[scene]) == pytest.approx(float(snapshots.numel() * (level.log() + 1)))
        estimate, noise = _best_of_one(batch[scene])
        fields = batch[scene].received_fields(estimate.steering(batch.config.array(dtype=torch.float64)))[0]
        covariance = estimate.power[0, 0] * fields @ fields.mH + noise * torch.eye(5)
        misfit = torch.linalg.slogdet(covariance).logabsdet.sum()
        misfit += (snapshots.unsqueeze(1).conj() @ torch.linalg.solve(covariance, snapshots.unsqueeze(-1))).real.sum()
        assert float(one[scene]) == pytest.approx(float(misfit), rel=1e-6)


def _best_of_one(scene: SceneBatch) -> tuple[Estimate, Tensor]:
    """The place of one source by maximum likelihood, and the noise power beside it."""
    parameters = initial_parameters(scene, points_of(sparse(scene, 1)), torch.ones(1, 1, dtype=torch.bool))
    best, _ = fisher_scoring(scene, parameters, 60)
    return best.estimate(), best.noise_power[0]


def test_pure_noise_has_no_source_in_any_measure() -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=-60.0), 20, seed=11)
    assert model_order(batch, 2).tolist() == [0] * 20


def test_counts_do_not_depend_on_units_or_on_the_basis_of_the_antennas() -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=5.0), 12, seed=12).to(dtype=torch.float64)
    counts = model_order(batch, 3)
    assert len(set(counts.tolist())) > 1
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))).Q
    scaled = dataclasses.replace(batch, snapshots=1e-4 * batch.snapshots)
    turned = dataclasses.replace(batch, snapshots=batch.snapshots @ turn.mT, channel=turn @ batch.channel)
    assert torch.equal(model_order(scaled, 3), counts) and torch.equal(model_order(turned, 3), counts)


def test_criteria_are_smallest_at_the_number_of_sources() -> None:
    named = order_criteria(simulate(dataclasses.replace(CLASSROOM, sources=2), 1, seed=3), most=3)
    assert list(named) == ["bic", "mdl", "aic"]
    assert named["mdl"][2] == named["bic"][2] == 0.0
    for values in named.values():
        assert min(values) == 0.0 and len(values) == 4 and values[0] > 0 and values[1] > 0


@pytest.mark.parametrize(("symbols", "waveforms"), [("varying", 6), ("coherent", 6), ("constant", 1)])
def test_the_criterion_is_the_formula(symbols: str, waveforms: int) -> None:
    batch = simulate(dataclasses.replace(SMALL, symbols=symbols), 2, seed=0)
    fits = torch.tensor([3.0, 700.0], dtype=torch.float64)
    for k in range(4):
        unknowns = 3 * k + 2 * waveforms * k
        for scene, fit in enumerate((3.0, 700.0)):
            log = 30 * math.log(fit / 30)
            of = {name: float(information_criterion(batch, fits, k, criterion=name)[scene]) for name in CRITERIA}
            assert of["bic"] == pytest.approx(fit + 0.5 * 4 * k * math.log(60))
            assert of["mdl"] == pytest.approx(log + 0.5 * unknowns * math.log(60))
            assert of["aic"] == pytest.approx(log + unknowns)
    # A known axis costs nothing.
    flat = dataclasses.replace(batch, config=dataclasses.replace(batch.config, elevation=(0.0, 0.0)))
    assert float(information_criterion(flat, fits, 1)[0]) == pytest.approx(3 + 0.5 * 3 * math.log(60))
    with pytest.raises(InputError, match="criterion is 'cic'; allowed: 'bic', 'mdl', 'aic'"):
        information_criterion(batch, fits, 1, criterion="cic")


def one_code(config: SceneConfig, count: int, seed: int) -> SceneBatch:
    """Scenes in which all snapshots share the code of the first."""
    batch = simulate(config, count, seed=seed)
    return measured_again(dataclasses.replace(batch, codes=batch.codes[:, :1].expand_as(batch.codes)), seed)


def test_eigenvalues_count_the_sources_where_all_snapshots_share_a_code_and_only_there() -> None:
    config = SceneConfig.preset("classroom", snr_db=20.0, snapshots=64, separation=math.radians(30))
    shared, changing = one_code(config, 60, 1), simulate(config, 60, seed=1)
    right = [
        float((order_by_eigenvalues(batch) == batch.active.sum(-1)).double().mean()) for batch in (shared, changing)
    ]
    assert right[0] >= 0.9
    # A new code for each snapshot: the signal part has full rank, and the lesson is that nothing is counted.
    assert right[1] <= 0.2


def test_eigenvalue_counts_are_the_published_formula_scene_by_scene() -> None:
    config = SceneConfig.preset("classroom", snr_db=(0.0, 10.0), snapshots=20)
    batch = one_code(config, 20, 2)
    for criterion in ("mdl", "aic"):
        orders = order_by_eigenvalues(batch, criterion=criterion).tolist()
        for scene, count in zip(batch, orders, strict=True):
            data = scene.snapshots[0].mT
            values = torch.linalg.eigvalsh(data @ data.mH / 20).flip(0).tolist()
            scores = []
            for k in range(8):
                tail = values[k:]
                ratio = math.exp(sum(math.log(value) for value in tail) / len(tail)) / (sum(tail) / len(tail))
                free = k * (2 * 8 - k)
                penalty = free * math.log(20) / 2 if criterion == "mdl" else free
                scores.append(-20 * len(tail) * math.log(ratio) + penalty)
            assert count == min(range(8), key=scores.__getitem__)


def test_aic_counts_no_fewer_than_mdl() -> None:
    # For 64 snapshots ½ ln L > 1: the penalty of "mdl" is the larger one.
    batch = one_code(SceneConfig.preset("classroom", snr_db=(-10.0, 5.0), snapshots=64), 60, 3)
    mdl, aic = (order_by_eigenvalues(batch, criterion=criterion) for criterion in ("mdl", "aic"))
    assert bool((aic >= mdl).all())
    assert bool((aic > mdl).any())


def test_tiny_eigenvalues_do_not_underflow() -> None:
    # 144 eigenvalues of 1e-30 have a product of 1e-4320.
    config = SceneConfig.preset("full", antennas=144, snapshots=200, sources=3, snr_db=20.0, separation=0.5)
    batch = one_code(config, 2, 4)
    assert order_by_eigenvalues(batch).tolist() == [3, 3]
    for scale in (1e-15, 1e15):
        scaled = dataclasses.replace(batch, snapshots=scale * batch.snapshots)
        assert order_by_eigenvalues(scaled).tolist() == [3, 3]


def test_eigenvalues_that_do_not_exist_are_refused() -> None:
    batch = simulate(dataclasses.replace(SMALL, snapshots=4), 1, seed=0)
    with pytest.raises(InputError, match="snapshots is 4; allowed: at least 5, the number of antennas"):
        order_by_eigenvalues(batch)
    with pytest.raises(InputError, match="criterion is 'bic'"):
        order_by_eigenvalues(simulate(SMALL, 1, seed=0), criterion="bic")
