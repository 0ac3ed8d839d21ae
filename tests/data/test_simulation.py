"""Simulation: the signal model by brute force, seeds and splits, sources at given places, bad arguments."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rislab.data.philox import SPLITS
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import place, simulate
from rislab.errors import InputError

SMALL = SceneConfig.preset("classroom", ris_shape=(3, 4), antennas=5, snapshots=6)


def differences(one: SceneBatch, other: SceneBatch) -> dict[str, float]:
    """Largest absolute difference of each tensor."""
    pairs = zip(one.tensors().items(), other.tensors().values(), strict=True)
    return {
        name: float((left.to(torch.complex128) - right.to(torch.complex128)).abs().max())
        for (name, left), right in pairs
    }


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 10**9), count=st.integers(1, 70), offset=st.integers(0, 69), seed=st.integers(0, 2**63 - 1))
def test_a_scene_does_not_depend_on_how_many_are_drawn(start: int, count: int, offset: int, seed: int) -> None:
    offset = offset % count
    many = simulate(SMALL, count, seed=seed, start=start)[offset]
    alone = simulate(SMALL, 1, seed=seed, start=start + offset)
    # Matrix products of different batch sizes may round differently: float32 epsilon times a signal of a few units.
    assert max(differences(many, alone).values()) < 2e-5


def test_splits_seeds_and_numbers_never_share_a_scene() -> None:
    batches = [simulate(SMALL, 200, seed=seed, split=split) for split in SPLITS for seed in (0, 1)]
    hashes = [digest for batch in batches for digest in batch.hashes()]
    assert len(set(hashes)) == len(hashes) == 1200
    assert simulate(SMALL, 3, seed=0).hashes() == batches[0].hashes()[:3]
    assert simulate(SMALL, 3, seed=0, start=197).hashes() == batches[0].hashes()[197:]
    # Scenes with the same sources count as the same, whatever noise was drawn over them.
    louder = simulate(dataclasses.replace(SMALL, snr_db=-3.0, antennas=2), 3, seed=0)
    assert louder.hashes() == batches[0].hashes()[:3]
    assert louder.fingerprint() != simulate(SMALL, 3, seed=0).fingerprint()


def test_other_fields_leave_the_sources_alone() -> None:
    other = dataclasses.replace(SMALL, antennas=9, snapshots=11, codes="dft", snr_db=(5.0, 5.0), rician_factor=3.0)
    one, two = simulate(SMALL, 5, seed=0), simulate(other, 5, seed=0)
    assert torch.equal(one.azimuth, two.azimuth)
    assert torch.equal(one.range, two.range)


@pytest.mark.parametrize("symbols", ["varying", "constant", "coherent"])
@pytest.mark.parametrize("codes", ["random", "dft", "hadamard"])
def test_snapshots_are_the_formula_snapshot_by_snapshot(symbols: str, codes: str) -> None:
    config = dataclasses.replace(SMALL, symbols=symbols, codes=codes, snr_db=(200.0, 200.0), rician_factor=2.0)
    batch = simulate(config, 3, seed=1)
    for scene in batch:
        vectors = scene.steering()[0]
        for l in range(config.snapshots):
            field = vectors @ scene.symbols[0, l]
            expected = scene.channel[0] @ torch.diag(scene.codes[0, l]) @ field
            # At 200 dB the noise is 1e-10 of the signal; float32 products of unit-size numbers are left.
            torch.testing.assert_close(scene.snapshots[0, l], expected, atol=1e-4, rtol=1e-4)


def test_signal_to_noise_ratio_is_what_was_asked_for(full: SceneBatch) -> None:
    batch = simulate(SceneConfig.preset("full"), 400, seed=3)
    clean = torch.einsum("bmn,bln,bnk,blk->blm", batch.channel, batch.codes, batch.steering(), batch.symbols)
    noise = batch.snapshots - clean
    measured = 10 * torch.log10(clean.abs().square().mean((1, 2)) / noise.abs().square().mean((1, 2)))
    torch.testing.assert_close(measured, batch.realised_snr_db, atol=0.01, rtol=0)
    # 256 complex noise samples: the realised power scatters by 4.34/√256 = 0.27 dB, its mean over 400 by 0.014 dB.
    difference = batch.realised_snr_db - batch.snr_db
    assert float(difference.std()) == pytest.approx(0.27, abs=0.03)
    assert abs(float(difference.mean())) < 0.06
    declared = clean.abs().square().mean((1, 2)) / 10 ** (batch.snr_db / 10)
    torch.testing.assert_close(batch.noise_power, declared, rtol=1e-4, atol=0)


def test_fields_are_uniform_over_their_intervals() -> None:
    batch = simulate(SceneConfig.preset("full", ris_shape=(2, 2), antennas=1, snapshots=1), 4000, seed=5)
    config = batch.config
    drawn = {"azimuth": config.azimuth, "elevation": config.elevation, "range": config.range, "snr_db": config.snr_db}
    for name, (low, high) in drawn.items():
        unit = (batch.tensors()[name].double().flatten() - low) / (high - low)
        assert float(unit.min()) >= 0
        assert float(unit.max()) <= 1
        # Kolmogorov–Smirnov: 1.95/√n is the one-in-a-thousand level.
        ranks = torch.arange(1, len(unit) + 1) / len(unit)
        assert float((unit.sort().values - ranks).abs().max()) < 1.95 / math.sqrt(len(unit)) + 1 / len(unit)
    counts = torch.bincount(batch.active.sum(-1), minlength=6)[1:]
    assert float((counts / 4000 - 0.2).abs().max()) < 0.03


def test_powers_sum_to_the_number_of_elements() -> None:
    equal = simulate(SMALL, 20, seed=0)
    torch.testing.assert_close(equal.power.sum(-1), torch.full((20,), 12.0))
    free = simulate(dataclasses.replace(SMALL, power_law="free-space", sources=(2, 2)), 20, seed=0)
    torch.testing.assert_close(free.power.sum(-1), torch.full((20,), 12.0))
    ratio = free.power[:, 0] / free.power[:, 1]
    torch.testing.assert_close(ratio, (free.range[:, 1] / free.range[:, 0]) ** 2)


def test_symbol_modes() -> None:
    varying = simulate(dataclasses.replace(SMALL, sources=(2, 2), snapshots=4000), 2, seed=0).symbols
    gram = varying.mH @ varying / 4000
    # Sample covariance of 4 000 symbols of power 6: 6/√4000 = 0.1.
    torch.testing.assert_close(gram, 6 * torch.eye(2, dtype=gram.dtype).expand(2, -1, -1), atol=0.4, rtol=0)
    constant = simulate(dataclasses.replace(SMALL, symbols="constant"), 5, seed=0).symbols
    assert float((constant - constant[:, :1]).abs().max()) == 0.0
    coherent = simulate(dataclasses.replace(SMALL, symbols="coherent", sources=(2, 2)), 50, seed=0).symbols
    gains = coherent[:, :, 1] / coherent[:, :, 0]
    assert float((gains - gains[:, :1]).abs().max()) < 1e-4
    assert float((gains.abs() - 1).abs().max()) < 1e-4
    assert float(gains[:, 0].angle().std()) > 1.0  # any phase


@pytest.mark.parametrize("kappa", [0.0, 1.0, 10.0])
def test_channel_has_unit_power_and_the_line_of_sight_its_share(kappa: float) -> None:
    channel = simulate(SceneConfig.preset("full", rician_factor=kappa), 100, seed=0).channel
    assert float(channel.abs().square().mean()) == pytest.approx(1.0, abs=0.02)
    squares = torch.linalg.svdvals(channel).square()
    share = float((squares[:, 0] / squares.sum(-1)).mean())
    if kappa == 10:
        assert share == pytest.approx(0.92, abs=0.01)
    if kappa == 0:
        assert share < 0.15


def test_code_families() -> None:
    random = simulate(SMALL, 4, seed=0).codes
    torch.testing.assert_close(random.abs(), torch.ones_like(random.abs()))
    assert not torch.equal(random[0], random[1])
    dft = simulate(dataclasses.replace(SMALL, codes="dft", snapshots=12), 2, seed=0).codes[0].to(torch.complex128)
    torch.testing.assert_close(dft @ dft.mH, 12 * torch.eye(12, dtype=dft.dtype), atol=1e-4, rtol=0)
    torch.testing.assert_close(dft[0], torch.ones(12, dtype=dft.dtype))  # broadside comes first
    spread = simulate(dataclasses.replace(SMALL, codes="dft", dft_beams="spread", snapshots=4), 1, seed=0).codes[0]
    matches = (spread.to(torch.complex128) @ dft.mH).abs() / 12
    assert matches.max(dim=1).values.tolist() == pytest.approx([1.0] * 4, abs=1e-4)
    sylvester = np.array([[1.0]])
    while len(sylvester) < 12:
        sylvester = np.block([[sylvester, sylvester], [sylvester, -sylvester]])
    hadamard = simulate(dataclasses.replace(SMALL, codes="hadamard", snapshots=20), 1, seed=0).codes[0]
    expected = np.vstack([sylvester, sylvester])[:20, :12]
    np.testing.assert_allclose(hadamard.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("codes", ["random", "dft", "hadamard"])
def test_quantised_phases_take_two_to_the_bits_levels(bits: int, codes: str) -> None:
    batch = simulate(dataclasses.replace(SMALL, codes=codes, phase_bits=bits, snapshots=64), 2, seed=0)
    levels = batch.codes.angle() / (2 * math.pi / 2**bits)
    assert float((levels - levels.round()).abs().max()) < 1e-4
    if codes == "random":
        assert len(set((levels.round().to(int) % 2**bits).flatten().tolist())) == 2**bits


@pytest.mark.parametrize(
    "impairment",
    [
        {"phase_error": 0.1},
        {"gain_jitter": 0.1},
        {"dead_elements": 0.2},
        {"position_jitter": 0.01},
        {"channel_error": 0.1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_impairment_changes_the_world_and_not_the_belief(impairment: dict[str, float]) -> None:
    quiet = dataclasses.replace(SMALL, snr_db=(200.0, 200.0))
    clean, impaired = simulate(quiet, 20, seed=0), simulate(dataclasses.replace(quiet, **impairment), 20, seed=0)
    assert torch.equal(clean.codes, impaired.codes)
    assert torch.equal(clean.azimuth, impaired.azimuth)
    model = torch.einsum(
        "bmn,bln,bnk,blk->blm", impaired.channel, impaired.codes, impaired.steering(), impaired.symbols
    )
    mismatch = float((impaired.snapshots - model).norm() / model.norm())
    assert 0.01 < mismatch < 1.0
    assert ("channel_error" in impairment) == (not torch.equal(clean.channel, impaired.channel))


def test_impairments_have_the_declared_size() -> None:
    quiet = dataclasses.replace(SMALL, snr_db=(200.0, 200.0))
    base = simulate(quiet, 300, seed=0)
    error = simulate(dataclasses.replace(quiet, channel_error=0.25), 300, seed=0).channel - base.channel
    assert float(error.abs().square().mean()) == pytest.approx(0.25, rel=0.05)


def test_sources_stand_at_least_the_separation_apart() -> None:
    from rislab.data.geometry import separation

    batch = simulate(SceneConfig.preset("full", separation=math.radians(15), sources=(5, 5), snapshots=1), 200, seed=0)
    for one in range(5):
        for other in range(one):
            angle = separation(
                batch.azimuth[:, one], batch.elevation[:, one], batch.azimuth[:, other], batch.elevation[:, other]
            )
            assert float(angle.min()) >= math.radians(15) - 1e-5
    with pytest.raises(InputError, match="separation is 3 rad, and scene 0"):
        simulate(dataclasses.replace(SMALL, separation=3.0, sources=(3, 3)), 1, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"split": "dev"}, "split is 'dev'; allowed: 'train', 'validation', 'test'"),
        ({"start": -1}, "start is -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        simulate(SMALL, **{"count": 1, "seed": 0, **arguments})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="config is a str"):
        simulate("full", 1, seed=0)  # type: ignore[arg-type]


def test_scenes_at_given_places_hold_them_and_hang_on_the_seed() -> None:
    config = SceneConfig.preset("classroom", snr_db=10.0)
    scenes = place(config, [-0.4, 0.3], [0.1, -0.2], [1.0, 2.0], seed=3, count=5)
    assert len(scenes) == 5
    assert scenes.config.sources == (2, 2)
    for name, values in (("azimuth", [-0.4, 0.3]), ("elevation", [0.1, -0.2]), ("range", [1.0, 2.0])):
        torch.testing.assert_close(getattr(scenes, name), torch.tensor(values).expand(5, -1))
    again = place(config, [-0.4, 0.3], [0.1, -0.2], [1.0, 2.0], seed=3, count=7)
    assert again[:5].fingerprint() == scenes.fingerprint()
    assert place(config, [-0.4, 0.3], [0.1, -0.2], [1.0, 2.0], seed=4).fingerprint() != scenes[0].fingerprint()
    # The rest is drawn as simulate() draws it.
    drawn = simulate(scenes.config, 5, seed=3, split="test")
    assert torch.equal(drawn.channel, scenes.channel) and torch.equal(drawn.codes, scenes.codes)
    assert torch.equal(drawn.symbols, scenes.symbols)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (([0.1], [0.1, 0.2], [1.0]), "hold 1, 2 and 1 values"),
        (([2.0], [0.1], [1.0]), "azimuth is 2"),
        (([0.1], [0.1], [0.0]), "range is 0"),
        (([math.nan], [0.1], [1.0]), "azimuth is nan"),
        (([], [], []), "sources is 0"),
    ],
)
def test_places_that_cannot_be_are_named(places: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        place(SceneConfig.preset("classroom"), *places, seed=0)
