"""The map during training: snapshots are what the network predicts, and taking them changes nothing."""

from __future__ import annotations

import copy
import itertools
import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rislab.data.covariance import nmse
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.map_history import MapHistory, evenly_spaced
from rislab.music.spectra import music_spectrum
from rislab.training.loop import TrainConfig, fit
from rislab.training.records import EpochRecord

CONFIG = SceneConfig.preset("classroom", sources=2, snr_db=20.0)


class FixedNet(CovarianceNet):
    """A network that predicts a given factor."""

    factor: Tensor

    @classmethod
    def with_factor(cls, factor: Tensor) -> FixedNet:
        plain = CovarianceNet.build(CONFIG, width=8)
        model = cls(plain.backbone, plain.head, plain.maps)
        model.factor = factor
        return model

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        return self.factor


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    return simulate(CONFIG, 64, seed=0)


@pytest.fixture(scope="module")
def network() -> CovarianceNet:
    return CovarianceNet.build(CONFIG, width=64)


def take_snapshots(history: MapHistory, model: nn.Module, epochs: Any) -> list[int]:
    for epoch in epochs:
        history.take_snapshot(model, epoch)
    return [snapshot.epoch for snapshot in history.snapshots()]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_a_history_does_not_change_training_by_a_bit(scenes: SceneBatch, precision: str) -> None:
    """Nor does looking at its snapshots from another thread meanwhile."""
    config = TrainConfig(epochs=3, micro_batch=16, precision=precision)

    def trained(history: MapHistory | None) -> tuple[dict[str, Tensor], list[float]]:
        torch.manual_seed(5)
        model = CovarianceNet.build(CONFIG, width=64)
        losses = []
        if history is not None:
            history.take_snapshot(model, 0)
        for record in fit(model, scenes, config):
            losses.append(record.loss_nmse)
            assert model.training
            if history is not None and isinstance(record, EpochRecord):
                history.take_snapshot(model, record.epoch)
                # Whoever reads draws random numbers of their own, as the peak search of a panel might.
                reader = threading.Thread(target=lambda: [snapshot.line() for snapshot in history.snapshots()])
                reader.start()
                reader.join()
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}, losses

    history = MapHistory(scenes[3])
    weights, losses = trained(history)
    alone, alone_losses = trained(None)
    assert losses == alone_losses
    assert weights.keys() == alone.keys()
    assert all(torch.equal(weights[name], alone[name]) for name in weights)
    assert [snapshot.epoch for snapshot in history.snapshots()] == [0, 1, 2, 3]
    # The check can fail: the snapshots are of networks that differ.
    first, last = history.snapshots()[0], history.snapshots()[-1]
    assert not torch.equal(first.factor, last.factor) and last.nmse < first.nmse


def test_a_history_leaves_mode_gradients_and_random_numbers_alone(scenes: SceneBatch, network: CovarianceNet) -> None:
    model = copy.deepcopy(network)
    history = MapHistory(scenes[0])
    for training in (True, False):
        model.train(training)
        before = torch.random.get_rng_state()
        history.take_snapshot(model, 0)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(module.training is training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not history.snapshots()[0].factor.requires_grad


def test_a_snapshot_is_what_the_functions_say(scenes: SceneBatch, network: CovarianceNet) -> None:
    scene = scenes[5]
    history = MapHistory(scene, shape=(31, 17))
    history.take_snapshot(network, 0)
    (snapshot,) = history.snapshots()
    predicted = network.predict(scene)
    assert torch.equal(snapshot.factor, predicted)
    assert snapshot.nmse == pytest.approx(float(nmse(predicted, scene.factor())), rel=1e-6)
    at = float(scene.range[0, 0])
    grid = CONFIG.grid((31, 17, 1), range=(at, at))
    assert snapshot.map.shape == history.truth.shape == (31, 17) and snapshot.map.dtype == torch.float32
    torch.testing.assert_close(snapshot.map, music_spectrum(predicted, 2, grid, refine=False).values[0, ..., 0])
    torch.testing.assert_close(history.truth, music_spectrum(scene.factor(), 2, grid, refine=False).values[0, ..., 0])


def test_a_network_that_knows_the_truth_finds_all_and_one_that_does_not_finds_fewer(scenes: SceneBatch) -> None:
    scene = scenes[5]
    history = MapHistory(scene)
    history.take_snapshot(FixedNet.with_factor(scene.factor()), 0)
    (right,) = history.snapshots()
    # Three terms cancel to about 1e-6 in single precision.
    assert right.hits == 2 and abs(right.nmse) < 1e-5
    torch.testing.assert_close(right.map, history.truth)
    other = simulate(CONFIG, 1, seed=9)
    history.take_snapshot(FixedNet.with_factor(other.factor()), 1)
    wrong = history.snapshots()[-1]
    assert wrong.hits < 2 and wrong.nmse > 0.5
    assert "0 of 2" in wrong.line() or "1 of 2" in wrong.line()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda factor: factor * math.nan, "NaN or infinity"),
        (lambda factor: factor * math.inf, "NaN or infinity"),
        (lambda factor: factor * 0, "is zero"),
        (lambda factor: factor[..., :1].repeat(1, 1, 2), "rank below 2"),
    ],
)
def test_a_prediction_without_a_spectrum_says_so_and_ends_nothing(scenes: SceneBatch, spoil: Any, message: str) -> None:
    history = MapHistory(scenes[5])
    history.take_snapshot(FixedNet.with_factor(spoil(scenes[5].factor())), 0)
    history.take_snapshot(FixedNet.with_factor(scenes[5].factor()), 1)
    bad, good = history.snapshots()
    assert message in bad.problem and message in bad.line() and "epoch 0" in bad.line()
    assert bool(torch.isnan(bad.map).all()) and bad.map.shape == history.truth.shape
    assert bad.hits == 0 and bad.peaks is None
    assert good.problem == "" and good.hits == 2


def test_snapshots_are_thinned_by_the_epochs_alone(scenes: SceneBatch, network: CovarianceNet) -> None:
    history = MapHistory(scenes[0], most=5)
    assert take_snapshots(history, network, range(5)) == [0, 1, 2, 3, 4]
    # One more than there is room for: every second goes, the newest stays until the next has come.
    assert take_snapshots(history, network, [5]) == [0, 2, 4, 5]
    assert take_snapshots(history, network, [6, 7]) == [0, 2, 4, 6, 7]
    assert take_snapshots(history, network, range(8, 101)) == [0, 32, 64, 96, 100]
    assert history.last is not None and history.last.epoch == 100
    again = MapHistory(scenes[0], most=5)
    assert take_snapshots(again, network, range(101)) == [0, 32, 64, 96, 100]


@pytest.mark.parametrize("most", [3, 4, 7, 40])
def test_there_are_never_more_snapshots_than_asked_for_nor_far_fewer(
    scenes: SceneBatch, network: CovarianceNet, most: int
) -> None:
    history = MapHistory(scenes[0], most=most)
    for epoch in range(130):
        history.take_snapshot(network, epoch)
        epochs = [snapshot.epoch for snapshot in history.snapshots()]
        assert len(epochs) <= most and epochs == sorted(set(epochs))
        assert epochs[0] == 0 and epochs[-1] == epoch
        assert len(epochs) >= min(epoch + 1, most // 2)


def test_a_second_run_begins_the_history_anew(scenes: SceneBatch, network: CovarianceNet) -> None:
    history = MapHistory(scenes[0], most=4)
    take_snapshots(history, network, range(20))
    second = CovarianceNet.build(CONFIG, seed=1, width=64)
    assert take_snapshots(history, second, range(3)) == [0, 1, 2]
    # The first run was stopped, and still ends its epoch: that is no snapshot of the second.
    assert take_snapshots(history, network, [20]) == [0, 1, 2]
    assert torch.equal(history.snapshots()[-1].factor, second.predict(scenes[0]))
    assert take_snapshots(history, second, [3]) == [0, 1, 2, 3]
    # And the same network may begin again.
    assert take_snapshots(history, network, [0, 1]) == [0, 1]


def test_a_run_that_is_resumed_goes_on(scenes: SceneBatch, network: CovarianceNet) -> None:
    history = MapHistory(scenes[0])
    assert take_snapshots(history, network, [17, 18]) == [17, 18]
    assert take_snapshots(history, copy.deepcopy(network), [19]) == [17, 18, 19]


def test_listeners_hear_of_every_snapshot_until_they_leave(scenes: SceneBatch, network: CovarianceNet) -> None:
    history = MapHistory(scenes[0])
    epochs: list[int] = []
    leave = history.subscribe(lambda: epochs.append(history.snapshots()[-1].epoch))
    take_snapshots(history, network, range(3))
    leave()
    leave()
    take_snapshots(history, network, [3])
    assert epochs == [0, 1, 2]


def test_a_history_can_be_read_while_it_is_made(scenes: SceneBatch, network: CovarianceNet) -> None:
    history = MapHistory(scenes[0], most=6)
    history.take_snapshot(network, 0)
    readings: list[list[int]] = []
    finite: list[bool] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            snapshots = history.snapshots()
            readings.append([snapshot.epoch for snapshot in snapshots])
            finite.append(math.isfinite(snapshots[-1].nmse))

    reader = threading.Thread(target=read)
    reader.start()
    take_snapshots(history, network, range(1, 100))
    over.set()
    reader.join()
    assert len(finite) == len(readings) > 0 and all(finite)
    assert all(epochs == sorted(set(epochs)) and len(epochs) <= 6 for epochs in readings)


def test_a_double_precision_network_is_followed_in_the_precision_of_the_scene(
    scenes: SceneBatch, network: CovarianceNet
) -> None:
    history = MapHistory(scenes[0])
    history.take_snapshot(copy.deepcopy(network).double(), 0)
    history.take_snapshot(network, 1)
    first, second = history.snapshots()
    assert first.factor.dtype == second.factor.dtype == torch.complex64
    # Single precision knows the factor to some 1e-6.
    torch.testing.assert_close(first.factor, second.factor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", ["classroom", "full"])
@pytest.mark.parametrize("wavefront", ["spherical", "planar"])
def test_any_scene_has_a_history(preset: str, wavefront: str) -> None:
    config = SceneConfig.preset(preset, wavefront=wavefront, sources=2)
    scene = simulate(config, 1, seed=2)
    history = MapHistory(scene)
    history.take_snapshot(CovarianceNet.build(config, width=16), 0)
    assert bool(torch.isfinite(history.truth).all()) and bool(torch.isfinite(history.snapshots()[0].map).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda scenes: MapHistory(scenes[:2]), "scene is 2 scenes"),
        (lambda scenes: MapHistory("scene"), "scene is a str"),
        (lambda scenes: MapHistory(scenes[0], 0), "sources is 0"),
        (lambda scenes: MapHistory(scenes[0], 36), "sources is 36"),
        (lambda scenes: MapHistory(scenes[0], most=2), "most is 2"),
        (lambda scenes: MapHistory(scenes[0]).take_snapshot(nn.Linear(2, 2), 0), "model is a Linear"),
        (lambda scenes: MapHistory(scenes[0]).take_snapshot(CovarianceNet.build(CONFIG, width=8), -1), "epoch is -1"),
        (
            lambda scenes: MapHistory(scenes[0]).take_snapshot(
                CovarianceNet.build(SceneConfig.preset("full"), width=8), 0
            ),
            "model cannot take the scene",
        ),
        (lambda scenes: evenly_spaced([], 1), "most is 1"),
    ],
)
def test_what_cannot_be_is_named(scenes: SceneBatch, make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(scenes)


def test_snapshots_for_a_report_are_spread_and_keep_both_ends(scenes: SceneBatch, network: CovarianceNet) -> None:
    history = MapHistory(scenes[0])
    take_snapshots(history, network, range(31))
    for most in (2, 5, 12, 30, 31, 40):
        epochs = [snapshot.epoch for snapshot in evenly_spaced(history.snapshots(), most)]
        assert len(epochs) == min(most, 31) and epochs == sorted(set(epochs))
        assert (epochs[0], epochs[-1]) == (0, 30)
        gaps = {late - early for early, late in itertools.pairwise(epochs)}
        assert max(gaps) - min(gaps) <= 1
