"""The map during training: frames are what the network predicts, and taking them changes nothing."""

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
from rislab.data.scenes import SceneBatch, SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.map_history import MapHistory, evenly_spaced
from rislab.music.spectra import music_spectrum
from rislab.training.loop import TrainConfig, fit
from rislab.training.records import EpochRecord

CONFIG = SceneConfig.preset("classroom", sources=2, snr_db=20.0)


class Told(CovarianceNet):
    """A network that predicts what it is told."""

    factor: Tensor

    @classmethod
    def saying(cls, factor: Tensor) -> Told:
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


def follow(film: MapHistory, model: nn.Module, epochs: Any) -> list[int]:
    for epoch in epochs:
        film.take_snapshot(model, epoch)
    return [frame.epoch for frame in film.snapshots()]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_a_film_does_not_change_training_by_a_bit(scenes: SceneBatch, precision: str) -> None:
    """Nor does looking at its frames from another thread meanwhile."""
    config = TrainConfig(epochs=3, micro_batch=16, precision=precision)

    def trained(film: MapHistory | None) -> tuple[dict[str, Tensor], list[float]]:
        torch.manual_seed(5)
        model = CovarianceNet.build(CONFIG, width=64)
        losses = []
        if film is not None:
            film.take_snapshot(model, 0)
        for record in fit(model, scenes, config):
            losses.append(record.loss_nmse)
            assert model.training
            if film is not None and isinstance(record, EpochRecord):
                film.take_snapshot(model, record.epoch)
                # Whoever reads draws random numbers of their own, as the peak search of a panel might.
                reader = threading.Thread(target=lambda: [frame.line() for frame in film.snapshots()])
                reader.start()
                reader.join()
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}, losses

    film = MapHistory(scenes[3])
    weights, losses = trained(film)
    alone, alone_losses = trained(None)
    assert losses == alone_losses
    assert weights.keys() == alone.keys()
    assert all(torch.equal(weights[name], alone[name]) for name in weights)
    assert [frame.epoch for frame in film.snapshots()] == [0, 1, 2, 3]
    # The check can fail: the frames are of networks that differ.
    first, last = film.snapshots()[0], film.snapshots()[-1]
    assert not torch.equal(first.factor, last.factor) and last.nmse < first.nmse


def test_a_film_leaves_mode_gradients_and_random_numbers_alone(scenes: SceneBatch, network: CovarianceNet) -> None:
    model = copy.deepcopy(network)
    film = MapHistory(scenes[0])
    for training in (True, False):
        model.train(training)
        before = torch.random.get_rng_state()
        film.take_snapshot(model, 0)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(module.training is training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not film.snapshots()[0].factor.requires_grad


def test_a_frame_is_what_the_functions_say(scenes: SceneBatch, network: CovarianceNet) -> None:
    scene = scenes[5]
    film = MapHistory(scene, shape=(31, 17))
    film.take_snapshot(network, 0)
    (frame,) = film.snapshots()
    predicted = network.predict(scene)
    assert torch.equal(frame.factor, predicted)
    assert frame.nmse == pytest.approx(float(nmse(predicted, scene.factor())), rel=1e-6)
    at = float(scene.range[0, 0])
    grid = CONFIG.grid((31, 17, 1), range=(at, at))
    assert frame.map.shape == film.truth.shape == (31, 17) and frame.map.dtype == torch.float32
    torch.testing.assert_close(frame.map, music_spectrum(predicted, 2, grid, refine=False).values[0, ..., 0])
    torch.testing.assert_close(film.truth, music_spectrum(scene.factor(), 2, grid, refine=False).values[0, ..., 0])


def test_a_network_that_knows_the_truth_finds_all_and_one_that_does_not_is_not_said_to(scenes: SceneBatch) -> None:
    scene = scenes[5]
    film = MapHistory(scene)
    film.take_snapshot(Told.saying(scene.factor()), 0)
    (right,) = film.snapshots()
    # Three terms cancel to about 1e-6 in single precision.
    assert right.hits == 2 and abs(right.nmse) < 1e-5
    torch.testing.assert_close(right.map, film.truth)
    other = simulate(CONFIG, 1, seed=9)
    film.take_snapshot(Told.saying(other.factor()), 1)
    wrong = film.snapshots()[-1]
    assert wrong.hits < 2 and wrong.nmse > 0.5
    assert "0 of 2" in wrong.line() or "1 of 2" in wrong.line()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda factor: factor * math.nan, "NaN or infinity"),
        (lambda factor: factor * math.inf, "NaN or infinity"),
        (lambda factor: factor * 0, "is zero"),
        (lambda factor: factor[..., :1].repeat(1, 1, 2), "rank below 2"),
    ],
)
def test_a_prediction_without_a_spectrum_says_so_and_ends_nothing(scenes: SceneBatch, spoil: Any, said: str) -> None:
    film = MapHistory(scenes[5])
    film.take_snapshot(Told.saying(spoil(scenes[5].factor())), 0)
    film.take_snapshot(Told.saying(scenes[5].factor()), 1)
    bad, good = film.snapshots()
    assert said in bad.problem and said in bad.line() and "epoch 0" in bad.line()
    assert bool(torch.isnan(bad.map).all()) and bad.map.shape == film.truth.shape
    assert bad.hits == 0 and bad.peaks is None
    assert good.problem == "" and good.hits == 2


def test_frames_are_thinned_by_the_epochs_alone(scenes: SceneBatch, network: CovarianceNet) -> None:
    film = MapHistory(scenes[0], most=5)
    assert follow(film, network, range(5)) == [0, 1, 2, 3, 4]
    # One more than there is room for: every second goes, the newest stays until the next has come.
    assert follow(film, network, [5]) == [0, 2, 4, 5]
    assert follow(film, network, [6, 7]) == [0, 2, 4, 6, 7]
    assert follow(film, network, range(8, 101)) == [0, 32, 64, 96, 100]
    assert film.last is not None and film.last.epoch == 100
    again = MapHistory(scenes[0], most=5)
    assert follow(again, network, range(101)) == [0, 32, 64, 96, 100]


@pytest.mark.parametrize("most", [3, 4, 7, 40])
def test_there_are_never_more_frames_than_asked_for_nor_far_fewer(
    scenes: SceneBatch, network: CovarianceNet, most: int
) -> None:
    film = MapHistory(scenes[0], most=most)
    for epoch in range(130):
        film.take_snapshot(network, epoch)
        kept = [frame.epoch for frame in film.snapshots()]
        assert len(kept) <= most and kept == sorted(set(kept))
        assert kept[0] == 0 and kept[-1] == epoch
        assert len(kept) >= min(epoch + 1, most // 2)


def test_a_second_run_begins_the_film_anew(scenes: SceneBatch, network: CovarianceNet) -> None:
    film = MapHistory(scenes[0], most=4)
    follow(film, network, range(20))
    second = CovarianceNet.build(CONFIG, seed=1, width=64)
    assert follow(film, second, range(3)) == [0, 1, 2]
    # The first run was stopped, and still ends its epoch: that is no frame of the second.
    assert follow(film, network, [20]) == [0, 1, 2]
    assert torch.equal(film.snapshots()[-1].factor, second.predict(scenes[0]))
    assert follow(film, second, [3]) == [0, 1, 2, 3]
    # And the same network may begin again.
    assert follow(film, network, [0, 1]) == [0, 1]


def test_a_run_that_is_resumed_goes_on(scenes: SceneBatch, network: CovarianceNet) -> None:
    film = MapHistory(scenes[0])
    assert follow(film, network, [17, 18]) == [17, 18]
    assert follow(film, copy.deepcopy(network), [19]) == [17, 18, 19]


def test_listeners_are_told_of_every_frame_until_they_leave(scenes: SceneBatch, network: CovarianceNet) -> None:
    film = MapHistory(scenes[0])
    told: list[int] = []
    leave = film.subscribe(lambda: told.append(film.snapshots()[-1].epoch))
    follow(film, network, range(3))
    leave()
    leave()
    follow(film, network, [3])
    assert told == [0, 1, 2]


def test_a_film_can_be_read_while_it_is_made(scenes: SceneBatch, network: CovarianceNet) -> None:
    film = MapHistory(scenes[0], most=6)
    film.take_snapshot(network, 0)
    seen: list[list[int]] = []
    finite: list[bool] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            frames = film.snapshots()
            seen.append([frame.epoch for frame in frames])
            finite.append(math.isfinite(frames[-1].nmse))

    reader = threading.Thread(target=read)
    reader.start()
    follow(film, network, range(1, 300))
    over.set()
    reader.join()
    assert len(finite) == len(seen) > 0 and all(finite)
    assert all(epochs == sorted(set(epochs)) and len(epochs) <= 6 for epochs in seen)


def test_a_double_precision_network_is_followed_in_the_precision_of_the_scene(
    scenes: SceneBatch, network: CovarianceNet
) -> None:
    film = MapHistory(scenes[0])
    film.take_snapshot(copy.deepcopy(network).double(), 0)
    film.take_snapshot(network, 1)
    first, second = film.snapshots()
    assert first.factor.dtype == second.factor.dtype == torch.complex64
    # Single precision knows the factor to some 1e-6.
    torch.testing.assert_close(first.factor, second.factor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", ["classroom", "full"])
@pytest.mark.parametrize("wavefront", ["spherical", "planar"])
def test_any_scene_can_be_filmed(preset: str, wavefront: str) -> None:
    config = SceneConfig.preset(preset, wavefront=wavefront, sources=2)
    scene = simulate(config, 1, seed=2)
    film = MapHistory(scene)
    film.take_snapshot(CovarianceNet.build(config, width=16), 0)
    assert bool(torch.isfinite(film.truth).all()) and bool(torch.isfinite(film.snapshots()[0].map).all())


@pytest.mark.parametrize(
    ("make", "said"),
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
def test_what_cannot_be_is_named(scenes: SceneBatch, make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(scenes)


def test_frames_for_a_report_are_spread_and_keep_both_ends(scenes: SceneBatch, network: CovarianceNet) -> None:
    film = MapHistory(scenes[0])
    follow(film, network, range(31))
    for most in (2, 5, 12, 30, 31, 40):
        epochs = [frame.epoch for frame in evenly_spaced(film.snapshots(), most)]
        assert len(epochs) == min(most, 31) and epochs == sorted(set(epochs))
        assert (epochs[0], epochs[-1]) == (0, 30)
        gaps = {late - early for early, late in itertools.pairwise(epochs)}
        assert max(gaps) - min(gaps) <= 1
