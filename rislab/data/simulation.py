"""Simulation: simulate() draws scenes, place() puts sources where they are wanted.

Measurement of snapshot l = 1 … L: y_l = H diag(c_l) A s_l + n_l with n_l ~ CN(0, σ² I).

Scene i of a split is a pure function of (seed, split, i): one Philox counter generator per (seed, split), each scene
owning its own stretch of counters. So scenes do not depend on how many are drawn, and splits cannot overlap.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rislab.data.geometry import ArrayGeometry, separation
from rislab.data.grid import chunks, empty_huge
from rislab.data.philox import SPLITS, SceneRandom
from rislab.data.scene_config import IMPAIRMENTS, Interval, SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice, check_device, check_number

# Scenes per pass: few enough for the cache, many enough that calls cost little.
CHUNK = 256
# Candidates tried for each source when a minimum separation is asked for.
PLACEMENT_TRIES = 64

# Azimuth and elevation in radians and range in metres, [B,K] each.
Places = tuple[Tensor, Tensor, Tensor]


def simulate(
    config: SceneConfig,
    count: int,
    *,
    seed: int,
    split: str = "train",
    start: int = 0,
    device: str | torch.device = "cpu",
) -> SceneBatch:
    """Draw scenes start .. start+count−1 of a split.

    The SNR is that at the antennas: the noise power of a scene is σ² = mean over l, m of |H diag(c_l) A s_l|² /
    10^(SNR/10), with the signal that arrived; `realised_snr_db` compares it with the noise that was drawn.

    Args:
        config: what to draw from.
        count: number of scenes, 1 … 2^31.
        seed: 0 … 2^63 − 1; the same seed gives disjoint scenes in different splits.
        split: "train", "validation" or "test".
        start: number of the first scene, 0 … 2^48.
        device: of the result; random numbers are always drawn on the CPU.

    Returns:
        SceneBatch of complex64 and float32 tensors.

    Raises:
        InputError: for an argument out of range, or a separation that a scene cannot meet.

    Example:
        >>> batch = simulate(SceneConfig.preset("classroom", sources=2), 3, seed=0)
        >>> tuple(batch.snapshots.shape), batch.power[0].tolist()  # [B,L,M]; powers sum to N = 36
        ((3, 16, 8), [18.0, 18.0])
    """
    if not isinstance(config, SceneConfig):
        raise InputError(f"config is a {type(config).__name__}; allowed: a SceneConfig")
    check_number("count", count, 1, 2**31, integer=True)
    check_number("seed", seed, 0, 2**63 - 1, integer=True)
    check_choice("split", split, SPLITS)
    check_number("start", start, 0, 2**48, integer=True)
    check_device(device)
    random = SceneRandom(seed, split, start, count)
    return _scenes(config, random, *_draw_sources(config, random)).to(device)


def place(
    config: SceneConfig,
    azimuth: Sequence[float],
    elevation: Sequence[float],
    range: Sequence[float],
    *,
    seed: int,
    count: int = 1,
) -> SceneBatch:
    """Draw scenes of the split "test" with their sources at given places; everything else differs between scenes.

    Args:
        config: what to draw the rest from; its number of sources is not used.
        azimuth: [K], radians, within the field of view of the configuration.
        elevation: [K], radians, within the field of view.
        range: [K], metres, within the field of view.
        seed: see simulate().
        count: see simulate().

    Returns:
        SceneBatch [count] of complex64 and float32 tensors.

    Raises:
        InputError: for different numbers of values, or places outside the field of view.
    """
    sources = len(azimuth)
    if not sources == len(elevation) == len(range):
        raise InputError(
            f"azimuth, elevation and range hold {sources}, {len(elevation)} and {len(range)} values; "
            "allowed: the same number"
        )
    for name, values in (("azimuth", azimuth), ("elevation", elevation), ("range", range)):
        for value in values:
            check_number(name, value, *getattr(config, name))
    config = config.changed(sources=sources, separation=0.0)
    check_number("seed", seed, 0, 2**63 - 1, integer=True)
    check_number("count", count, 1, 2**31, integer=True)
    random = SceneRandom(seed, "test", 0, count)
    _, active, snr_db = _draw_sources(config, random)
    azimuths, elevations, ranges = (
        torch.tensor(values, dtype=torch.float32).expand(count, -1) for values in (azimuth, elevation, range)
    )
    return _scenes(config, random, (azimuths, elevations, ranges), active, snr_db)


def _scenes(config: SceneConfig, random: SceneRandom, places: Places, active: Tensor, snr_db: Tensor) -> SceneBatch:
    """Scenes with sources at given places."""
    count = random.count
    azimuth, elevation, range_ = places
    power = _powers(config, range_, active)  # [B, K]
    symbols = _draw_symbols(config, random, power)  # [B, L, K]
    array = config.array()
    measured: dict[str, Tensor] = {}
    for rows in chunks(count, CHUNK):
        there = azimuth[rows], elevation[rows], range_[rows]
        part = _measure(config, array, random.part(rows), there, symbols[rows], snr_db[rows])
        # Copied at once into their place: the memory of a chunk is in the cache, and the next chunk reuses it.
        for name, tensor in part.items():
            if name not in measured:
                measured[name] = empty_huge((count, *tensor.shape[1:]), tensor.dtype)
            measured[name][rows] = tensor
    return SceneBatch(
        **measured,
        symbols=symbols,
        azimuth=azimuth,
        elevation=elevation,
        range=range_,
        power=power,
        active=active,
        snr_db=snr_db,
        index=torch.arange(random.start, random.start + count),
        config=config,
    )


def _measure(
    config: SceneConfig, array: ArrayGeometry, random: SceneRandom, places: Places, symbols: Tensor, snr_db: Tensor
) -> dict[str, Tensor]:
    """What the base station receives, y_l = H diag(c_l) A s_l + n_l, and the H and c that it assumes."""
    channel = _draw_channel(config, random)  # [B, M, N]
    codes = _draw_codes(config, random)  # [B, L, N]
    true_array, true_codes, known_channel = array, codes, channel
    if any(getattr(config, name) for name in IMPAIRMENTS):
        true_array, true_codes, known_channel = _impair(config, random, array, codes, channel)
    vectors = true_array.steering(*places)  # [B, K, N]
    arriving = torch.bmm(symbols, vectors).mul_(true_codes)  # [B, L, N]
    signal = torch.bmm(arriving, channel.mT)  # [B, L, M]
    signal_power = torch.view_as_real(signal).square().sum(dim=(1, 2, 3)) / signal[0].numel()  # [B]
    noise_power = signal_power / 10 ** (snr_db / 10)
    shape = (config.snapshots, config.antennas)
    noise = random.words("noise", math.prod(shape)).complex_normal(*shape).mul_(noise_power.sqrt()[:, None, None])
    realised_power = torch.view_as_real(noise).square().sum(dim=(1, 2, 3)) / noise[0].numel()
    return {
        "snapshots": signal.add_(noise),
        "codes": codes,
        "channel": known_channel,
        "noise_power": noise_power,
        "realised_snr_db": 10 * torch.log10(signal_power / realised_power),
    }


def _between(uniform: Tensor, interval: Interval) -> Tensor:
    return interval[0] + (interval[1] - interval[0]) * uniform


def _draw_sources(config: SceneConfig, random: SceneRandom) -> tuple[Places, Tensor, Tensor]:
    """The places of the sources, which slots are active [B,K], and the SNR in dB [B]."""
    slots = config.sources[1]
    tries = PLACEMENT_TRIES if config.separation > 0 else 1
    words = random.words("sources", 2 + slots * tries * 3)
    low, high = config.sources
    counts = low + (words.uniform() * (high - low + 1)).to(torch.int64)  # [B]
    snr_db = _between(words.uniform(), config.snr_db)
    active = torch.arange(slots) < counts.unsqueeze(-1)  # [B, K]
    candidates = words.uniform(slots, tries, 3)
    azimuth = _between(candidates[..., 0], config.azimuth)  # [B, K, T]
    elevation = _between(candidates[..., 1], config.elevation)
    range_ = _between(candidates[..., 2], config.range)
    chosen = _first_apart(azimuth, elevation, active, config.separation, random.start)  # [B, K, 1]
    azimuth, elevation, range_ = (values.gather(-1, chosen).squeeze(-1) for values in (azimuth, elevation, range_))
    return (azimuth, elevation, range_), active, snr_db


def _first_apart(azimuth: Tensor, elevation: Tensor, active: Tensor, smallest: float, start: int) -> Tensor:
    """For each source in turn, its first candidate that keeps the separation to those placed before it, [B,K,1]."""
    chosen = torch.zeros(*azimuth.shape[:2], 1, dtype=torch.int64)
    if smallest <= 0:
        return chosen
    for slot in range(1, azimuth.shape[1]):
        placed_azimuth = azimuth[:, :slot].gather(-1, chosen[:, :slot])  # [B, slot, 1]
        placed_elevation = elevation[:, :slot].gather(-1, chosen[:, :slot])
        angles = separation(azimuth[:, slot, None], elevation[:, slot, None], placed_azimuth, placed_elevation)
        apart = (angles >= smallest).all(dim=1)  # [B, T]
        stuck = active[:, slot] & ~apart.any(dim=-1)
        if bool(stuck.any()):
            scene = start + int(stuck.nonzero()[0, 0])
            raise InputError(
                f"separation is {smallest:g} rad, and scene {scene} found no room for its source {slot + 1} "
                f"in {PLACEMENT_TRIES} tries; allowed: a smaller separation or fewer sources"
            )
        chosen[:, slot, 0] = apart.to(torch.uint8).argmax(dim=-1)
    return chosen


def _powers(config: SceneConfig, range_: Tensor, active: Tensor) -> Tensor:
    """Powers of the sources, [B,K], which sum to N."""
    weights = range_.pow(-2.0) if config.power_law == "free-space" else torch.ones_like(range_)
    weights = weights * active
    return weights * (config.elements / weights.sum(dim=-1, keepdim=True))


def _draw_symbols(config: SceneConfig, random: SceneRandom, power: Tensor) -> Tensor:
    """Symbols s_l ~ CN(0, P), [B,L,K]; see SYMBOLS."""
    snapshots, slots = config.snapshots, power.shape[1]
    words = random.words("symbols", snapshots * slots + slots)
    unit = words.complex_normal(snapshots, slots)  # [B, L, K]
    if config.symbols == "constant":
        unit = unit[:, :1].expand(-1, snapshots, -1)
    if config.symbols == "coherent":
        phase = words.phases(slots)
        unit = unit[:, :, :1] * torch.polar(torch.ones_like(phase), phase).unsqueeze(1)
    return unit * power.sqrt().unsqueeze(1)


def _draw_channel(config: SceneConfig, random: SceneRandom) -> Tensor:
    """H = √(κ/(κ+1)) b aᵀ + √(1/(κ+1)) CN(0,1): both parts have unit power per entry before weighting."""
    words = random.words("channel", config.antennas * config.elements + 3)
    scattered = words.complex_normal(config.antennas, config.elements)
    kappa = config.rician_factor
    if kappa == 0:
        return scattered
    departure, arrival = words.uniform(2), words.uniform(1)  # from the RIS in two angles, at the base station in one
    far = torch.full_like(arrival[:, 0], math.inf)
    across = math.pi * torch.arange(config.antennas) * _between(arrival, (-1.0, 1.0))  # [B, M], kd sin(angle)
    receive = torch.polar(torch.ones_like(across), across)
    half_space = (-math.pi / 2, math.pi / 2)
    angles = _between(departure, half_space)
    transmit = config.array().steering(angles[:, 0], angles[:, 1], far) * math.sqrt(config.elements)  # unit modulus
    line_of_sight = receive.unsqueeze(-1) * transmit.unsqueeze(-2)  # [B, M, N]
    return math.sqrt(kappa / (kappa + 1)) * line_of_sight + math.sqrt(1 / (kappa + 1)) * scattered


def _draw_codes(config: SceneConfig, random: SceneRandom) -> Tensor:
    """Phase profiles c_l of the surface, [B,L,N], of modulus 1."""
    snapshots, elements = config.snapshots, config.elements
    if config.codes == "random":
        phase = random.words("codes", -(-snapshots * elements // 2)).phases(snapshots, elements)
    else:
        one = _dft_phases(config) if config.codes == "dft" else _hadamard_phases(config)
        phase = one.expand(random.count, -1, -1)
    if config.phase_bits is not None:
        step = 2 * math.pi / 2**config.phase_bits
        phase = torch.round(phase / step) * step
    return torch.complex(torch.cos(phase), phase.sin())


def _dft_phases(config: SceneConfig) -> Tensor:
    """Phases of L columns of the two-dimensional DFT, [L,N]; the beams nearest broadside first, or spread evenly."""
    rows, columns = config.ris_shape
    beam_v, beam_h = torch.meshgrid(torch.fft.fftfreq(rows), torch.fft.fftfreq(columns), indexing="ij")
    beam_v, beam_h = beam_v.reshape(-1), beam_h.reshape(-1)  # spatial frequencies in cycles per element
    if config.dft_beams == "broadside":
        order = torch.argsort(beam_v.square() + beam_h.square(), stable=True)
        wanted = torch.arange(config.snapshots) % config.elements
    else:
        order = torch.arange(config.elements)
        wanted = (torch.arange(config.snapshots) * config.elements // config.snapshots) % config.elements
    chosen = order[wanted]
    place_v = torch.arange(rows).repeat_interleave(columns)
    place_h = torch.arange(columns).repeat(rows)
    return 2 * math.pi * (beam_v[chosen, None] * place_v + beam_h[chosen, None] * place_h)


def _hadamard_phases(config: SceneConfig) -> Tensor:
    """Phases 0 and π of the first L rows of the Sylvester matrix of order 2^⌈log2 N⌉, cut to N columns, [L,N]."""
    order = 1 << (config.elements - 1).bit_length()
    rows = torch.arange(config.snapshots) % order
    shared_bits = rows[:, None] & torch.arange(config.elements)
    parity = torch.zeros_like(shared_bits)
    while bool(shared_bits.any()):
        parity ^= shared_bits & 1
        shared_bits = shared_bits >> 1
    return math.pi * parity.to(torch.float32)


def _impair(
    config: SceneConfig, random: SceneRandom, array: ArrayGeometry, codes: Tensor, channel: Tensor
) -> tuple[ArrayGeometry, Tensor, Tensor]:
    """The array and the codes as they are, and the channel that the receiver assumes."""
    snapshots, antennas, elements = config.snapshots, config.antennas, config.elements
    words = random.words("impairments", snapshots * elements + 4 * elements + antennas * elements)
    phase_error = config.phase_error * words.normal(snapshots, elements)
    gain = 1.0 + config.gain_jitter * words.normal(elements)
    alive = words.uniform(elements) >= config.dead_elements
    shift = config.position_jitter * torch.stack([words.normal(elements) for _ in range(2)], dim=-1)  # y, z
    error = math.sqrt(config.channel_error) * words.complex_normal(antennas, elements)
    turn = torch.polar(torch.ones_like(phase_error), phase_error)
    applied = codes * (gain * alive).unsqueeze(1) * turn
    moved = array.elements + torch.nn.functional.pad(shift, (1, 0))  # [B, N, 3]
    return dataclasses.replace(array, elements=moved.unsqueeze(1)), applied, channel + error
