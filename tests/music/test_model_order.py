"""Model order: sources are counted rightly, and every number is that of the formula."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music.likelihood import polish, rss
from rislab.music.model_order import information_criterion, model_order, order_by_eigenvalues, order_criteria
from rislab.music.sparse import sparse
from tests.music.helpers import counted, measured_again

CLASSROOM = SceneConfig.preset("classroom", snr_db=20.0, separation=math.radians(20))
SMALL = SceneConfig.preset("classroom", ris_shape=(4, 4), antennas=5, snapshots=6, sources=(1, 3), snr_db=10.0)


@pytest.mark.parametrize("most", [0, 8, 1.5, True])
def test_orders_out_of_range_are_refused(most: int) -> None:
    with pytest.raises(InputError, match="most is"):
        model_order(simulate(CLASSROOM, 2, seed=0), most)


def test_sources_are_counted() -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=15.0, separation=math.radians(20)), 24, seed=9)
    calls: list[tuple[int, int]] = []
    counts = model_order(batch, 4, progress=lambda done, of: calls.append((done, of)))
    # The scratch estimate was right in 48 of 48 scenes of the full preset at 15 dB.
    assert float((counts == counted(batch)).double().mean()) >= 0.9
    assert calls == [(number, 4) for number in range(1, 5)]


def test_counting_ends_for_every_scene() -> None:
    counts = model_order(simulate(SceneConfig.preset("classroom"), 12, seed=0), 4)
    assert bool(((counts >= 0) & (counts <= 4)).all())


def test_order_is_the_smallest_criterion_of_its_own_fits() -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=(0.0, 10.0)), 3, seed=10).to(dtype=torch.float64)
    energy = batch.snapshots.abs().square().sum((1, 2))
    lefts = [energy, *(rss(batch, polish(batch, sparse(batch, count))) for count in (1, 2, 3))]
    for criterion in ("mdl", "aic"):
        scores = [information_criterion(batch, energies, k, criterion=criterion) for k, energies in enumerate(lefts)]
        assert torch.equal(model_order(batch, 3, criterion=criterion), torch.stack(scores).argmin(0))
    with pytest.raises(InputError, match="criterion is 'bic'"):
        model_order(batch, 1, criterion="bic")


def test_pure_noise_has_no_source() -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=-60.0), 10, seed=11)
    assert model_order(batch, 2).tolist() == [0] * 10


def test_criteria_are_smallest_at_the_number_of_sources() -> None:
    named = order_criteria(simulate(dataclasses.replace(CLASSROOM, sources=2), 1, seed=3), most=3)
    assert named["mdl"][2] == 0.0
    for values in named.values():
        assert min(values) == 0.0 and len(values) == 4 and values[0] > 0 and values[1] > 0


@pytest.mark.parametrize(("symbols", "waveforms"), [("varying", 6), ("coherent", 6), ("constant", 1)])
def test_the_criterion_is_the_formula(symbols: str, waveforms: int) -> None:
    batch = simulate(dataclasses.replace(SMALL, symbols=symbols), 2, seed=0)
    energies = torch.tensor([3.0, 700.0], dtype=torch.float64)
    for k in range(4):
        unknowns = 3 * k + 2 * waveforms * k
        for scene, energy in enumerate((3.0, 700.0)):
            fit = 30 * math.log(energy / 30)
            mdl = information_criterion(batch, energies, k)[scene]
            assert float(mdl) == pytest.approx(fit + 0.5 * unknowns * math.log(60))
            aic = information_criterion(batch, energies, k, criterion="aic")[scene]
            assert float(aic) == pytest.approx(fit + unknowns)
    with pytest.raises(InputError, match="criterion is 'bic'; allowed: 'mdl', 'aic'"):
        information_criterion(batch, energies, 1, criterion="bic")


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
