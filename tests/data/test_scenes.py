"""Scenes: the signal model by brute force, seeds and splits, every field of the configuration, bad input."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rislab.data.philox import SECTIONS, SPLITS, raw_words
from rislab.data.scenes import SceneBatch, SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError

SMALL = SceneConfig.preset("classroom", ris_shape=(3, 4), antennas=5, snapshots=6)


def differences(one: SceneBatch, other: SceneBatch) -> dict[str, float]:
    """Largest absolute difference of each tensor."""
    pairs = zip(one.tensors().items(), other.tensors().values(), strict=True)
    return {
        name: float((left.to(torch.complex128) - right.to(torch.complex128)).abs().max())
        for (name, left), right in pairs
    }


# Seeds and splits


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 10**9), count=st.integers(1, 70), offset=st.integers(0, 69), seed=st.integers(0, 2**63 - 1))
def test_a_scene_does_not_depend_on_how_many_are_drawn(start: int, count: int, offset: int, seed: int) -> None:
    offset = offset % count
    many = simulate(SMALL, count, seed=seed, start=start)[offset]
    alone = simulate(SMALL, 1, seed=seed, start=start + offset)
    # Matrix products of different batch sizes may round differently: float32 epsilon times a signal of a few units.
    assert max(differences(many, alone).values()) < 2e-5


def test_raw_integers_are_the_same_on_every_machine() -> None:
    words = raw_words(7, "test", "codes", 5, 2, 3)
    key, counter = np.array([7, 2], dtype=np.uint64), np.array([5, 0, 0, SECTIONS.index("codes")], dtype=np.uint64)
    expected = np.random.Philox(key=key, counter=counter).random_raw(3)
    assert words[0].tolist() == expected.tolist()
    assert words.tolist() == [
        [11965511198257845490, 16972191708832087771, 6132966119831743450],
        [2396918128342518294, 2794779416086449979, 17637967352668702213],
    ]


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


# The signal model


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


def test_source_snr_adds_up_to_the_whole_for_many_snapshots() -> None:
    config = dataclasses.replace(SMALL, snapshots=2000, sources=(3, 3), snr_db=(7.0, 7.0))
    batch = simulate(config, 4, seed=2)
    total = 10 * torch.log10((10 ** (batch.source_snr_db() / 10)).sum(-1))
    # Cross terms between independent sources vanish like 1/√2000.
    torch.testing.assert_close(total, batch.snr_db, atol=0.3, rtol=0)


def test_inactive_sources_have_no_power_and_minus_infinite_snr() -> None:
    batch = simulate(SMALL, 50, seed=0)
    assert set(batch.active.sum(-1).tolist()) == {1, 2, 3}
    assert torch.equal(batch.power > 0, batch.active)
    assert torch.isneginf(batch.source_snr_db()[~batch.active]).all()
    assert float(batch.steering().abs().sum(1)[~batch.active].abs().max()) == 0.0


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


def test_truth_is_hermitian_of_rank_k_and_trace_n() -> None:
    batch = simulate(SceneConfig.preset("full"), 30, seed=4)
    matrix = batch.covariance(torch.float64)
    assert matrix.dtype == torch.complex128
    torch.testing.assert_close(matrix, matrix.mH)
    torch.testing.assert_close(
        matrix.diagonal(dim1=1, dim2=2).real.sum(-1), torch.full((30,), 144.0, dtype=torch.float64)
    )
    assert torch.equal(torch.linalg.matrix_rank(matrix, rtol=1e-9, hermitian=True), batch.active.sum(-1))


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


def test_a_minimum_separation_is_kept() -> None:
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


# The batch as a container


def test_indexing_and_joining_are_inverse(classroom: SceneBatch) -> None:
    parts = [classroom[:10], classroom[10], classroom[torch.arange(11, 50)], classroom[list(range(50, 128))]]
    assert SceneBatch.cat(parts).hashes() == classroom.hashes()
    assert len(classroom[-1]) == 1
    assert [len(scene) for scene in classroom[:3]] == [1, 1, 1]
    with pytest.raises(IndexError):
        classroom[128]
    with pytest.raises(InputError, match="different scene configurations"):
        SceneBatch.cat([classroom, simulate(SMALL, 1, seed=0)])


def test_dtype_moves_complex_tensors_along(classroom: SceneBatch) -> None:
    double = classroom[:2].to("cpu", torch.float64)
    assert double.snapshots.dtype == torch.complex128
    assert double.power.dtype == torch.float64
    assert double.active.dtype == torch.bool
    assert double.index.dtype == torch.int64


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["snapshots", "channel", "codes", "azimuth", "noise_power"])
def test_nan_and_infinity_are_named_by_scene(name: str, bad: float, classroom: SceneBatch) -> None:
    tensor = classroom[100:].tensors()[name].clone()
    tensor[7] = bad
    batch = dataclasses.replace(classroom[100:], **{name: tensor})
    with pytest.raises(InputError, match=rf"{name} of scene 7 \(index 107 of its split\)"):
        batch.check_finite()
    classroom.check_finite()


# Bad input


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"antenas": 8}, "antenas is not a field of SceneConfig; allowed: wavelength, ris_shape"),
        ({"antennas": 0}, "antennas is 0; allowed: a whole number in [1, 4096]"),
        ({"antennas": 8.0}, "antennas is 8.0"),
        ({"antennas": True}, "antennas is True"),
        ({"ris_shape": 12}, "ris_shape is 12"),
        ({"ris_shape": (0, 3)}, "ris_shape is 0"),
        ({"sources": (3, 1)}, "sources is (3, 1)"),
        ({"sources": (0, 1)}, "sources is 0"),
        ({"sources": (1.5, 2)}, "sources is 1.5"),
        ({"range": (0.0, 3.0)}, "range is 0.0"),
        ({"range": -1.0}, "range is -1.0"),
        ({"azimuth": (-2.0, 0.0)}, "azimuth is -2.0"),
        ({"snr_db": (math.nan, 3.0)}, "snr_db is nan"),
        ({"snr_db": "10"}, "snr_db is '10'"),
        ({"wavefront": "cylindrical"}, "wavefront is 'cylindrical'; allowed: 'spherical', 'fresnel', 'planar'"),
        ({"symbols": None}, "symbols is None"),
        ({"codes": "walsh"}, "codes is 'walsh'"),
        ({"phase_bits": 0}, "phase_bits is 0"),
        ({"rician_factor": -1.0}, "rician_factor is -1.0"),
        ({"dead_elements": 1.0}, "dead_elements is 1.0"),
        ({"wavelength": math.inf}, "wavelength is inf"),
    ],
)
def test_bad_fields_are_named_with_value_and_range(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        SceneConfig.from_dict(fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"count": 0}, "count is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"split": "dev"}, "split is 'dev'; allowed: 'train', 'validation', 'test'"),
        ({"start": -1}, "start is -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        simulate(SMALL, **{"count": 1, "seed": 0, **arguments})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="config is a str"):
        simulate("full", 1, seed=0)  # type: ignore[arg-type]


def test_configurations_survive_a_round_trip_and_cannot_be_changed() -> None:
    config = SceneConfig.preset("full", phase_bits=3, snr_db=10, sources=2)
    assert config.snr_db == (10, 10)
    assert config.sources == (2, 2)
    assert SceneConfig.from_dict(config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.antennas = 3  # type: ignore[misc]
    with pytest.raises(InputError, match="preset is 'tiny'; allowed: 'full', 'classroom'"):
        SceneConfig.preset("tiny")
