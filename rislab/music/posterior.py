"""What snapshots say of their sources as a distribution: its best estimates, regions and samples.

Waveforms and noise are those of the stochastic likelihood of music.likelihood, the prior is proposals.Prior: the
sources anywhere in the field of view, none closer to another than the separation.

Each source has a bank of candidates. Given all other sources, the probabilities of its candidates are computed at once,
and one is drawn: Gibbs sampling [1] over the banks, with several chains a scene. New banks are then drawn around the
candidates of high probability [2], first under a flattened likelihood, so that other maxima than that of the fit are
visited. Whenever the likelihood becomes steeper, the chains are resampled by it [3], so that each maximum has chains in
proportion to its probability. The result is the mean over the chains of the conditional probabilities, whose variance
is smaller than that of counts.

References:
    [1] S. Geman, D. Geman, Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images, IEEE
        Trans. PAMI 6(6), 1984.
    [2] O. Cappé, A. Guillin, J. M. Marin, C. P. Robert, Population Monte Carlo, J. Comput. Graph. Stat. 13(4), 2004.
    [3] P. Del Moral, A. Doucet, A. Jasra, Sequential Monte Carlo samplers, J. R. Stat. Soc. B 68(3), 2006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rislab.data.geometry import direction
from rislab.data.grid import chunks
from rislab.data.measurement import Measured, check_measured
from rislab.errors import check_number
from rislab.music.estimate import Estimate, check_estimate
from rislab.music.likelihood import initial_parameters, stacked_fields, stacked_snapshots, starting_points
from rislab.music.metrics import TOLERANCES
from rislab.music.proposals import Bank, Prior, Proposals, Scales

# Scenes worked on at once: banks and received fields take about 40 MB.
CHUNK = 4
# Exponent of the likelihood, number of sweeps, and share of the next bank from anywhere, of the rounds before the last.
ROUNDS = ((0.25, 3, 0.3), (0.4, 2, 0.25), (0.65, 2, 0.2), (1.0, 2, 0.1))
ONE_ROUND = ((1.0, 2, 0.3),)
# Size of the banks of these rounds over that of the last, and candidates of level and noise power.
SMALLER = 1 / 3
SCALES = 48
# Sweeps of each round that do not count: the chains start where they were among other candidates.
BURN_IN = 1
# Places tried as the estimate of a source.
TRIES = 128
# ln of the prior of places that are too close to each other: so small that it never counts.
FORBIDDEN = -1e8


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior distribution of the sources of B scenes: candidates with weights, and joint samples.

    Args:
        points: [B,K,T,3], real; candidates of each source, azimuth and elevation in radians, range in metres.
        weights: [B,K,T], real; their probabilities, which sum to 1.
        samples: [B,S,K,3], real; all sources together, drawn from the distribution by C chains in turn.
        power: [B,K], real; mean of the samples.
        active: [B,K], bool; slots that hold a source.
    """

    points: Tensor
    weights: Tensor
    samples: Tensor
    power: Tensor
    active: Tensor

    def expected_hits(self, tolerances: tuple[float, float, float] = TOLERANCES) -> Estimate:
        """Places within whose tolerances, see metrics.match(), the sources lie with the highest probability."""
        return self._at(self._windows(tolerances)[0])

    def hit_probability(self, tolerances: tuple[float, float, float] = TOLERANCES) -> Tensor:
        """Probability that each place of expected_hits() is a hit, [B,K], real; a little high, as a maximum of sums."""
        return self._windows(tolerances)[1]

    def _windows(self, tolerances: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
        """Places of expected_hits() and their probabilities."""
        scaled = self.points / torch.tensor(tolerances).to(self.points)
        likely = self.weights.topk(min(TRIES, self.weights.shape[-1]), dim=-1).indices
        centres = scaled.gather(2, likely.unsqueeze(-1).expand(-1, -1, -1, 3))
        near = (centres.unsqueeze(3) - scaled.unsqueeze(2)).abs().amax(-1) <= 1  # [B, K, TRIES, T]
        chance, best = (near * self.weights.unsqueeze(2)).sum(-1).max(-1, keepdim=True)
        which = likely.gather(-1, best).unsqueeze(-1).expand(-1, -1, -1, 3)
        return self.points.gather(2, which).squeeze(2), chance.squeeze(-1)

    def mean(self) -> Estimate:
        """Posterior mean of azimuth, elevation and range."""
        return self._at((self.weights.unsqueeze(-1) * self.points).sum(2))

    def _at(self, places: Tensor) -> Estimate:
        azimuth, elevation, metres = places.unbind(-1)
        return Estimate(azimuth, elevation, metres, self.power, self.active)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Central credible interval of azimuth, elevation and range of each source.

        Args:
            level: probability that the interval holds the source, 0 … 1.

        Returns:
            Smallest and largest, [B,K,3] each, real, radians and metres.
        """
        check_number("level", level, 0.0, 1.0)
        values, order = self.points.mT.sort(dim=-1)  # [B, K, 3, T]
        heights = self.weights.unsqueeze(2).expand_as(values).gather(-1, order)
        # Half of its weight lies before a candidate.
        share = heights.cumsum(-1) - heights / 2
        ends = []
        for quantile in ((1 - level) / 2, (1 + level) / 2):
            after = torch.searchsorted(share, torch.full_like(share[..., :1], quantile)).clamp(max=share.shape[-1] - 1)
            ends.append(values.gather(-1, after).squeeze(-1))
        return ends[0], ends[1]


def sample_posterior(
    batch: Measured,
    estimate: Estimate,
    *,
    seed: int = 0,
    powers: str | None = None,
    candidates: int = 768,
    chains: int = 12,
    sweeps: int = 3,
    flattened: bool = True,
) -> Posterior:
    """Posterior distribution of K sources, started from an estimate such as that of sparse() or polish().

    Everything is drawn from a generator of its own: the same call gives the same bits.

    Args:
        batch: B scenes or measurements; snapshots, codes, channel and the field of view are used, nothing of a truth.
        estimate: [B,K]; where to start. Inactive slots stay inactive.
        seed: of all draws, ≥ 0.
        powers: see Prior; of scenes their power law, of a measurement "independent", if None.
        candidates: T of each source, at least 32; a third as many before the last round.
        chains: of each scene, at least 1; T is at least eight times as many.
        sweeps: over all sources with the last banks, at least 2; all but the first are counted.
        flattened: begin with flattened likelihoods; without them one round remains, which is quick.

    Returns:
        Posterior [B,K] in the precision of the batch.

    Raises:
        InputError: for an argument out of range, or numbers of scenes that differ.

    Example:
        >>> from rislab.data.scene_config import SceneConfig
        >>> from rislab.data.simulation import simulate
        >>> from rislab.music.sparse import sparse
        >>> batch = simulate(SceneConfig.preset("classroom", sources=1, snr_db=10), 2, seed=0)
        >>> low, high = sample_posterior(batch, sparse(batch, 1)).interval(0.99)
        >>> bool(((low[..., 0] < batch.azimuth) & (batch.azimuth < high[..., 0])).all())
        True
    """
    check_measured(batch)
    check_number("seed", seed, 0, 2**63 - 1, integer=True)
    check_number("candidates", candidates, 32, 2**20, integer=True)
    check_number("chains", chains, 1, candidates // 8, integer=True)
    check_number("sweeps", sweeps, BURN_IN + 1, 10**6, integer=True)
    check_estimate(estimate, len(batch))
    prior, generator = Prior.of(batch, powers), Generator().manual_seed(seed)
    points = starting_points(batch, estimate)
    parts = []
    for rows in chunks(len(batch), CHUNK):
        chunk, active = batch[rows], estimate.active[rows]
        proposals = Proposals(chunk, prior, initial_parameters(chunk, points[rows], active), generator)
        state = Chains(chunk, prior, active, generator)
        parts.append(_sample(state, proposals, candidates, chains, sweeps, ROUNDS if flattened else ONE_ROUND))
    return Posterior(*(torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])))


def _sample(
    state: Chains,
    proposals: Proposals,
    candidates: int,
    chains: int,
    sweeps: int,
    rounds: tuple[tuple[float, int, float], ...],
) -> Posterior:
    """sample_posterior() of one chunk."""
    smaller = max(int(SMALLER * candidates), 2 * chains + 8)
    exponent = rounds[0][0]
    bank, scales = proposals.first(smaller, chains, exponent), proposals.scales(SCALES, exponent)
    which = torch.zeros_like(bank.start[..., 0])
    for number, (exponent, count, share) in enumerate(rounds):
        state.use(bank, scales, which)
        weights = torch.stack([state.sweep(exponent) for _ in range(count)])[BURN_IN:].mean(0)
        last = number == len(rounds) - 1
        state.resample((1.0 if last else rounds[number + 1][0]) - exponent)
        size = candidates if last else smaller
        bank = proposals.next(bank, weights, state.index, size, share)
        scales = proposals.scales(max(SCALES, 2 * chains), 1.0, state.scales.at(state.which).log())
        which = torch.arange(chains, device=which.device).expand_as(which).clone()
    state.use(bank, scales, which)
    totals, places, powers = [], [], []
    for turn in range(sweeps):
        weights = state.sweep(1.0)
        if turn >= BURN_IN:
            totals.append(weights)
            places.append(state.places())
            powers.append(state.powers())
    metres = torch.cat([state.points[..., :2], 1 / state.points[..., 2:]], dim=-1)
    power = torch.cat(powers, dim=1).mean(1) * state.active
    return Posterior(metres, torch.stack(totals).mean(0), torch.cat(places, dim=1), power, state.active)


class Chains:
    """C chains a scene over the candidates of a bank."""

    bank: Bank
    scales: Scales
    index: Tensor
    which: Tensor
    points: Tensor

    def __init__(self, batch: Measured, prior: Prior, active: Tensor, generator: Generator) -> None:
        """Hold B scenes with their active slots, [B,K]; use() gives them candidates."""
        self._batch, self._prior, self._generator = batch, prior, generator
        self.active = active
        self._snapshots = stacked_snapshots(batch).unsqueeze(1)  # [B, 1, L, M, 1]

    def use(self, bank: Bank, scales: Scales, which: Tensor) -> None:
        """Take other candidates; the chains are at `bank.start` and at the scales number `which`, [B,C]."""
        self.bank, self.scales, self.index, self.which = bank, scales, bank.start, which
        self.points = self._prior.points(bank.coordinates)
        azimuth, elevation, inverse = self.points.unbind(-1)
        array = self._batch.config.array(dtype=azimuth.dtype, device=azimuth.device)
        vectors = array.steering(azimuth, elevation, 1 / inverse)  # [B, K, T, N]
        amplitude = self._prior.relative_power(bank.coordinates).sqrt() * self.active.unsqueeze(-1)
        fields = stacked_fields(self._batch, (vectors * amplitude.unsqueeze(-1)).flatten(1, 2).mT)  # [B, L, M, K·T]
        self._fields = fields.unflatten(-1, azimuth.shape[1:]).movedim(-2, 1).contiguous()  # [B, K, L, M, T]
        self._energy = torch.view_as_real(self._fields).square().sum((-1, -3))  # ‖b‖², [B, K, L, T]
        self._directions = direction(azimuth, elevation)
        self._base = self._prior.log_density(bank.coordinates) - bank.log_proposal
        slots = range(azimuth.shape[1])
        self._present = torch.stack([self._chosen(slot) for slot in slots], dim=-1)  # [B, C, L, M, K]

    def _chosen(self, slot: int) -> Tensor:
        """Received fields of one source of each chain, [B,C,L,M]."""
        fields = self._fields[:, slot]
        where = self.index[:, None, None, :, slot].expand(*fields.shape[:-1], -1)
        return fields.gather(-1, where).permute(0, 3, 1, 2)

    def places(self) -> Tensor:
        """Azimuth, elevation and range of all sources of each chain, [B,C,K,3]."""
        points = self.points.gather(2, self.index.mT.unsqueeze(-1).expand(-1, -1, -1, 3))
        return torch.cat([points[..., :2], 1 / points[..., 2:]], dim=-1).transpose(1, 2)

    def powers(self) -> Tensor:
        """Powers of all sources of each chain, [B,C,K]."""
        relative = self._prior.relative_power(self.bank.coordinates).gather(2, self.index.mT).mT
        return relative * self.scales.at(self.which)[..., :1]

    def sweep(self, exponent: float) -> Tensor:
        """Draw each source given the others, then level and noise power; the likelihood counts to a power.

        Returns:
            [B,K,T], real; probabilities of the candidates, the mean over the chains.
        """
        weights = []
        for slot in range(self.index.shape[-1]):
            probability, self.index[..., slot] = self._draw(self._log_conditional(slot, exponent))
            self._present[..., slot] = self._chosen(slot)
            weights.append(probability.mean(1))
        _, self.which = self._draw(exponent * self._log_likelihood() - self.scales.log_proposal.unsqueeze(1))
        return torch.stack(weights, dim=1)

    def resample(self, exponent: float) -> None:
        """Resample the chains of each scene by their likelihood to the power `exponent`."""
        if exponent == 0:
            return
        chains = self.which.shape[1]
        likelihood = self._log_likelihood().gather(-1, self.which.unsqueeze(-1)).squeeze(-1)
        cumulative = torch.softmax(exponent * likelihood, dim=-1).cumsum(-1)
        uniform = torch.rand(len(cumulative), 1, generator=self._generator, dtype=cumulative.dtype)
        evenly = (uniform + torch.arange(chains)).to(cumulative) / chains * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, evenly).clamp(max=chains - 1)
        self.which = self.which.gather(1, chosen)
        self.index = self.index.gather(1, chosen.unsqueeze(-1).expand_as(self.index))

    def _draw(self, logarithms: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of candidates [B,C,T], and one of them drawn, [B,C]."""
        probability = torch.softmax(logarithms, dim=-1)
        cumulative = probability.cumsum(-1)
        uniform = torch.rand(*probability.shape[:-1], 1, generator=self._generator, dtype=probability.dtype)
        drawn = torch.searchsorted(cumulative, uniform.to(cumulative.device) * cumulative[..., -1:])
        return probability, drawn.squeeze(-1).clamp(max=probability.shape[-1] - 1)

    def _log_conditional(self, slot: int, exponent: float) -> Tensor:
        """ln of the posterior over the proposal of each candidate of a source, given the others, [B,C,T].

        As in sparse(), a source of power p raises ln L by Σ_l p|h_l|²/(1 + p g_l) − ln(1 + p g_l), g_l = b^H R_l⁻¹ b
        and h_l = b^H R_l⁻¹ y_l; R⁻¹ = (I − Q Q^H)/σ² with Q = B P^½ C^(−H) and C C^H = P^½ B^H B P^½ + σ² I.
        """
        level, noise = self.scales.at(self.which)[:, :, None, :].unbind(-1)  # [B, C, 1]
        others = [other for other in range(self.index.shape[-1]) if other != slot]
        scaled = self._present[..., others] * level[..., None, None].sqrt()
        eye = torch.eye(len(others), dtype=scaled.dtype, device=scaled.device)
        gram = scaled.mH @ scaled + noise[..., None, None] * eye
        factor = torch.linalg.cholesky_ex(gram).L
        basis = torch.linalg.solve_triangular(factor.mH, scaled, upper=True, left=False)
        residual = self._snapshots - basis @ (basis.mH @ self._snapshots)
        rows = torch.cat([basis, residual], dim=-1)  # [B, C, L, M, K]
        scenes, chains, length, antennas, columns = rows.shape
        rows = rows.permute(0, 2, 4, 1, 3).reshape(scenes, length, columns * chains, antennas).conj()
        product = torch.view_as_real(rows @ self._fields[:, slot]).square_().sum(-1)
        product = product.view(scenes, length, columns, chains, -1)
        level, noise = level.unsqueeze(1), noise.unsqueeze(1)
        outside = (self._energy[:, slot].unsqueeze(2) - product[:, :, :-1].sum(2)).clamp_(min=0)
        raised = outside.mul_(level / noise).add_(1)  # 1 + p g, [B, L, C, T]
        matched = product[:, :, -1] * (level / noise.square())  # p |h|²
        rise = matched.div_(raised).sub_(raised.log_()).sum(1)
        logarithms = exponent * rise + self._base[:, slot].unsqueeze(1)
        return logarithms + FORBIDDEN * self._crowded(slot, others) if self._prior.separation > 0 else logarithms

    def _crowded(self, slot: int, others: list[int]) -> Tensor:
        """Which candidates of a source are nearer to another source than the separation, [B,C,T]."""
        where = self.index.mT.unsqueeze(-1).expand(-1, -1, -1, 3)
        present = self._directions.gather(2, where)[:, others]  # [B, K-1, C, 3]
        cosine = present @ self._directions[:, slot].mT.unsqueeze(1)
        near = (cosine > math.cos(self._prior.separation)) & self.active[:, others, None, None]
        return near.any(1)

    def _log_likelihood(self) -> Tensor:
        """ln L of the places of each chain for each candidate of level and noise power, [B,C,P]."""
        fields, snapshots = self._present, self._snapshots
        values, vectors = torch.linalg.eigh(fields.mH @ fields)  # of B^H B, [B, C, L, K]
        matched = (vectors.mH @ (fields.mH @ snapshots)).squeeze(-1)
        matched = torch.view_as_real(matched).square().sum(-1).unsqueeze(-1)
        level, noise = self.scales.logarithms.exp()[:, None, None, None].unbind(-1)  # [B, 1, 1, 1, P]
        raised = level * values.clamp(min=0).unsqueeze(-1) + noise
        explained = (matched * level / (raised * noise) - raised.log()).sum((2, 3))
        length, antennas, slots = fields.shape[2:]
        energy = torch.view_as_real(snapshots).square().sum((1, 2, 3, 4, 5))[:, None, None]
        free = length * (antennas - slots) * noise.log()[:, :, 0, 0]
        return explained - free - energy / noise[:, :, 0, 0]
