"""Sparse fit: a few atoms of a dictionary of positions explain all snapshots together.

Matching pursuit on the stochastic likelihood of the measurement [1]: the atom that raises it most is added and moved
off the grid together with those before it; then each source in turn is removed and searched for again while the others
stay, until no scene changes [2]. Powers and noise power are estimated along with the positions.

References:
    [1] M. E. Tipping, A. C. Faul, Fast marginal likelihood maximisation for sparse Bayesian models, AISTATS 2003.
    [2] I. Ziskind, M. Wax, Maximum likelihood localization of multiple sources by alternating projection, IEEE Trans.
        ASSP 36(10), 1988.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rislab.data.covariance import covariance, scale_to_trace
from rislab.data.grid import chunks
from rislab.data.measurement import Measured, Measurement, check_measured
from rislab.music.dictionary import SearchGrid
from rislab.music.estimate import Estimate
from rislab.music.likelihood import (
    Parameters,
    bounds_box,
    check_identifiable,
    fisher_scoring,
    initial_parameters,
    select_scenes,
    single_antenna,
    stacked_fields,
    stacked_snapshots,
    stacked_steering,
    starting_points,
)
from rislab.music.peaks import local_maxima
from rislab.music.spectra import music_spectrum, power_on_grid
from rislab.music.subspace import check_sources
from rislab.music.waveforms import mmse_gain, project

# Scenes worked on at once: the powers of all atoms and the received fields of the shortlist take about 10 MB a scene.
CHUNK = 32
# Atoms whose exact gain is computed, the strongest by matched beam power.
SHORTLIST = 48
SWEEPS = 4
# With a single antenna: places from which Fisher scoring starts, and ratios of power to noise that rank them.
STARTS = 8
SHARES = (0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
# Added to the eigenvalues of H H^H, whose mean is 1, before the matched filter divides by them.
LOADING = 0.1
# The mean of the codes is taken for a part that never changes if it has this many times the energy that random codes
# give it.
SHARED = 3.0
# Above this share of the energy the codes hold nothing else, as with an array without a surface.
ALL = 0.999
SCORING_STEPS = 4
# Added to a sample covariance of mean power 1, whose rank may be below the number of sources.
FLOOR = 1e-3
# A replacement must raise ln L by more than this to count.
GAIN = 1e-2

ProgressCallback = Callable[[int, int], object]


def sparse(batch: Measured, sources: int | Tensor, *, progress: ProgressCallback | None = None) -> Estimate:
    """Positions of K sources by matching pursuit over the dictionary, refined off its grid.

    With R_l the covariance of the sources so far and the noise, b_l the received field of an atom,
    g_l = b_l^H R_l⁻¹ b_l and h_l = b_l^H R_l⁻¹ y_l, adding the atom with power p raises ln L by
    Σ_l p|h_l|²/(1 + p g_l) − ln(1 + p g_l). That is computed for the SHORTLIST atoms of highest Σ_l |h_l|², which is
    one matrix product for the whole dictionary: h_l = a^H (c_l* ⊙ H^H W R_l⁻¹ y_l), where W equalises the channel; it
    is nearly I without a line of sight.

    Args:
        batch: B scenes or measurements; snapshots, codes and channel are used, nothing of a truth.
        sources: K, for all scenes or [B], integer, at least 1; fewer than antennas where symbols vary.
        progress: called as progress(scenes done, scenes in all) after each chunk.

    Returns:
        Estimate [B,K] in the precision of the batch; polish() takes it to the maximum likelihood.

    Raises:
        InputError: for K out of range.

    Example:
        >>> from rislab.data.scene_config import SceneConfig
        >>> from rislab.data.simulation import simulate
        >>> batch = simulate(SceneConfig.preset("classroom", sources=1, snr_db=20), 4, seed=0)
        >>> bool(((sparse(batch, 1).azimuth - batch.azimuth).abs() < 0.01).all())
        True
    """
    check_measured(batch)
    counts = check_sources(sources, len(batch), batch.config.elements, batch.snapshots.device)
    check_identifiable(batch, int(counts.max()))
    search = SearchGrid.of(batch)
    parts = []
    for rows in chunks(len(batch), CHUNK):
        parts.append(_fit(batch[rows], counts[rows], int(counts.max()), search))
        if progress is not None:
            progress(rows.stop, len(batch))
    return Estimate.cat(parts)


def _fit(batch: Measured, counts: Tensor, most: int, search: SearchGrid) -> Estimate:
    """sparse() of one chunk, with K of each scene [B], and the largest K of all chunks."""
    pursuit = SourceSearch(batch, most, search)
    add = pursuit.add_by_powers if single_antenna(batch) else pursuit.add
    for slot in range(int(counts.max())):
        add((counts > slot).nonzero().squeeze(-1), slot)
    several = (counts > 1).nonzero().squeeze(-1)
    pursuit.restart(several)
    pursuit.exchange(several)
    return pursuit.parameters.estimate()


class SourceSearch:
    """Sources of B scenes, added one by one and exchanged for better ones; `rows` are numbers of scenes, [S], int64.

    Attributes:
        parameters: of the stochastic likelihood, [B,K].
        value: −ln L there, [B], real.
    """

    def __init__(self, batch: Measured, slots: int, search: SearchGrid) -> None:
        """Begin without a source, with K slots for those that are searched."""
        self._batch, self._search, self._balanced = batch, search, _balanced(batch)
        self._is_ordinary = _is_ordinary(batch)
        low, high = bounds_box(batch)
        level = torch.view_as_real(batch.snapshots).square().sum(-1).mean(dim=(1, 2))
        empty = torch.zeros(len(batch), slots, device=low.device)
        places = ((low + high) / 2).repeat(len(batch), slots, 1)
        self.parameters = Parameters(places, empty.to(low), level, empty.bool())
        self.value = batch.snapshots[0].numel() * (level.log() + 1)

    def add(self, rows: Tensor, slot: int, *, least: float = -math.inf) -> None:
        """Add the source that raises the likelihood most to some scenes, and move all of theirs off the grid.

        Args:
            slot: of the source; those before it hold the others.
            least: rise of ln L by the source on the grid, below which it is not added.
        """
        if not len(rows):
            return
        candidate, rise = self._with_strongest(rows, slot, slot + 1)
        worth = (rise >= least).nonzero().squeeze(-1)
        if len(worth):
            self._replace(rows[worth], *self._fisher_scoring(rows[worth], candidate[worth], SCORING_STEPS))

    def add_by_powers(self, rows: Tensor, slot: int) -> None:
        """add() for a single antenna, where only |y_l|² carries information and many places are nearly as likely.

        Not for counting sources: the best of so many places beats the penalty of a source by chance.
        """
        present = self.parameters.leading(slot + 1)[rows]
        starts = _starts_by_powers(select_scenes(self._batch, rows), present, slot, self._search)
        best, lowest = present, torch.full_like(present.noise_power, torch.inf)
        for start in starts:
            moved, value = self._fisher_scoring(rows, start, SCORING_STEPS)
            better = (value < lowest).nonzero().squeeze(-1)
            best.replace_rows(better, moved[better])
            lowest[better] = value[better]
        self._replace(rows, best, lowest)

    def converge(self, rows: Tensor, slots: int, steps: int) -> None:
        """Move the sources in the first slots of some scenes to the maximum of the likelihood, by fisher_scoring()."""
        if len(rows):
            self._replace(rows, *self._fisher_scoring(rows, self.parameters.leading(slots)[rows], steps))

    def restart(self, rows: Tensor) -> None:
        """Take the peaks of MUSIC for the sources of some scenes, where they are likelier; of an ordinary array alone.

        One source after the other may end in sidelobes, from where no exchange of a single one leads away.
        """
        slots = int(self.parameters.active[rows].sum(-1).amax()) if len(rows) else 0
        if not self._is_ordinary or not 1 < slots < self._batch.config.elements:
            return
        batch, active = select_scenes(self._batch, rows), self.parameters.active[rows, :slots]
        sample = covariance(scale_to_trace(batch.snapshots.mT))  # [S, N, N]
        floor = FLOOR * torch.eye(sample.shape[-1], device=sample.device)
        peaks = music_spectrum(sample + floor, active.sum(-1), self._search.grid).peaks
        complete = (peaks.active == active).all(-1).nonzero().squeeze(-1)
        start = initial_parameters(batch, starting_points(batch, peaks), active)
        moved, values = self._fisher_scoring(rows[complete], start[complete], SCORING_STEPS)
        won = (values < self.value[rows[complete]] - GAIN).nonzero().squeeze(-1)
        self._replace(rows[complete[won]], moved[won], values[won])

    def exchange(self, rows: Tensor) -> None:
        """Search each source again while the others stay, until no scene changes."""
        slots = int(self.parameters.active[rows].sum(-1).amax()) if len(rows) else 0
        for _ in range(SWEEPS):
            changed = torch.zeros_like(rows, dtype=torch.bool)
            for slot in range(slots):
                here = self.parameters.active[rows, slot].nonzero().squeeze(-1)
                if not len(here):
                    continue
                those = rows[here]
                candidate, _ = self._with_strongest(those, slot, slots)
                changes = candidate.points != self.parameters.points[those, :slots]
                moved = changes.flatten(1).any(-1).nonzero().squeeze(-1)
                if not len(moved):
                    continue
                those, here = those[moved], here[moved]
                refined, values = self._fisher_scoring(those, candidate[moved], SCORING_STEPS)
                better = values < self.value[those] - GAIN
                self._replace(those[better], refined[better], values[better])
                changed[here[better]] = True
            rows = rows[changed]
            if not len(rows):
                break

    def _with_strongest(self, rows: Tensor, slot: int, slots: int) -> tuple[Parameters, Tensor]:
        """Parameters with the source of one slot where it explains most, given the others, and its rise of ln L, [S].

        It may stay in its place.
        """
        batch, parameters = select_scenes(self._batch, rows), self.parameters.leading(slots)[rows]
        others = parameters.active.clone()
        others[:, slot] = False
        # A source is added behind all others; slots without one would only cost.
        present = bool(parameters.active[:, slot].any())
        rest = parameters if present else parameters.leading(slot)
        active = others[:, : rest.points.shape[1]]
        known = stacked_steering(batch, rest.points, active)
        gain = mmse_gain(known, (rest.power * active)[:, None], parameters.noise_power[:, None])
        _, residual = project(known, gain, stacked_snapshots(batch))  # σ² R⁻¹ y
        channel, codes = (part[rows] for part in self._balanced)
        arrived = channel.mH @ residual.reshape(batch.snapshots.shape).mT  # H^H σ² R⁻¹ y, [B, N, L]
        surface = arrived * codes.mT.conj()
        if batch.config.symbols == "constant":
            surface = surface.sum(-1, keepdim=True)
        if surface.shape[-1] > surface.shape[-2]:
            # Fewer columns with the same power in every direction: F^H = Q T gives F F^H = T^H T.
            surface = torch.linalg.qr(surface.mH, mode="r").R.mH
        matched = power_on_grid(surface, self._search.grid).flatten(1)
        shortlist = matched.topk(min(SHORTLIST, matched.shape[1]), dim=1).indices  # [B, T]
        axes = [axis.to(parameters.points)[shortlist] for axis in self._search.grid.points()]
        points = torch.stack([axes[0], axes[1], 1 / axes[2]], dim=-1)  # [B, T, 3]
        fields = stacked_fields(batch, self._search.atoms(shortlist).mT)  # [B, L, M, T]
        if present:
            # The present place of the source competes too.
            points = torch.cat([points, parameters.points[:, slot : slot + 1]], dim=1)
            own = stacked_steering(batch, parameters.points[:, slot : slot + 1], parameters.active[:, slot : slot + 1])
            fields = torch.cat([fields, own], dim=-1)
        _, outside = project(known, gain, fields)  # σ² R⁻¹ b
        noise = parameters.noise_power[:, None, None]
        g = (fields.conj() * outside).real.sum(-2) / noise  # b^H R⁻¹ b, [B, L, T+1]
        h = torch.view_as_real(fields.mH @ residual).square().sum((-2, -1)) / noise.square()  # |b^H R⁻¹ y|²
        power, rise = power_and_rise(g, h)  # [B, T+1]
        best = rise.argmax(1, keepdim=True)
        highest = rise.gather(1, best).squeeze(1)
        places, powers = parameters.points.clone(), parameters.power.clone()
        places[:, slot] = points.gather(1, best.unsqueeze(-1).expand(-1, -1, 3)).squeeze(1)
        smallest = 1e-3 / g.mean((1, 2)).clamp(min=torch.finfo(g.dtype).tiny)
        powers[:, slot] = torch.maximum(power.gather(1, best).squeeze(1), smallest)
        others[:, slot] = True
        return Parameters(places, powers, parameters.noise_power, others), highest

    def _fisher_scoring(self, rows: Tensor, parameters: Parameters, steps: int) -> tuple[Parameters, Tensor]:
        return fisher_scoring(select_scenes(self._batch, rows), parameters, steps)

    def _replace(self, rows: Tensor, parameters: Parameters, value: Tensor) -> None:
        self.parameters.leading(parameters.points.shape[1]).replace_rows(rows, parameters)
        self.value[rows] = value


def _starts_by_powers(batch: Measured, present: Parameters, slot: int, search: SearchGrid) -> list[Parameters]:
    """STARTS parameters with one more source, by the likelihood of every atom; for a single antenna.

    With v_l the variance so far and g_l = |b_l|², the variance is α (v_l + ρ g_l). The best α is the mean of
    |y_l|²/(v_l + ρ g_l); a few ρ are tried.
    """
    known = torch.view_as_real(stacked_steering(batch, present.points, present.active)).square().sum((-1, -3))
    so_far = (known * present.power.unsqueeze(1)).sum(-1) + present.noise_power[:, None]  # v, [B, L]
    energy = torch.view_as_real(batch.snapshots[..., 0]).square().sum(-1)
    sensing = batch.codes * batch.channel  # [B, L, N]
    lists = []
    every = search.atoms(torch.arange(len(search.planes), device=sensing.device)).T
    for v, y, rows in zip(so_far, energy, sensing, strict=True):
        g = torch.view_as_real(rows @ every).square().sum(-1)  # [L, G]
        ratio = v.mean() / g.mean(0)
        tried = []
        for share in SHARES:
            raised = v.unsqueeze(-1) + share * ratio * g
            tried.append(torch.log((y.unsqueeze(-1) / raised).mean(0)) + raised.log().mean(0))
        misfit, which = torch.stack(tried).min(0)  # −ln L / L up to a constant, [G]
        maxima = torch.where(local_maxima(-misfit.view(1, *search.grid.shape)).flatten(), -misfit, -torch.inf)
        atoms = maxima.topk(min(STARTS, len(maxima))).indices
        power = misfit.new_tensor(SHARES)[which[atoms]] * ratio[atoms]
        alpha = (y.unsqueeze(-1) / (v.unsqueeze(-1) + power * g[:, atoms])).mean(0)
        lists.append((atoms, power * alpha, alpha))
    atoms, power, alpha = (torch.stack(part, dim=1) for part in zip(*lists, strict=True))  # [T, B]
    axes = [axis.to(present.points) for axis in search.grid.points()]
    starts = []
    for which, own, scale in zip(atoms, power, alpha, strict=True):
        points, powers, active = present.points.clone(), present.power * scale.unsqueeze(-1), present.active.clone()
        points[:, slot] = torch.stack([axes[0][which], axes[1][which], 1 / axes[2][which]], dim=-1)
        powers[:, slot], active[:, slot] = own, True
        starts.append(Parameters(points, powers, present.noise_power * scale, active))
    return starts


def _is_ordinary(batch: Measured) -> bool:
    """Whether the snapshots are those of the elements themselves, with varying symbols."""
    direct = isinstance(batch, Measurement) and batch.is_direct
    return direct and batch.config.symbols == "varying" and bool((batch.codes == 1).all())


def _balanced(batch: Measured) -> tuple[Tensor, Tensor]:
    """balanced_channel() and the codes without a mean that all share; both themselves if the symbols are constant.

    Like a line of sight, the part of the codes that never changes would outweigh what depends on the places.
    """
    if batch.config.symbols == "constant":
        return batch.channel, batch.codes
    mean = batch.codes.mean(1, keepdim=True)
    energy, of_mean = (torch.view_as_real(part).square().sum((-2, -1)).mean(1) for part in (batch.codes, mean))
    # The mean of L codes that have none in common has 1/L of their energy.
    shared = (of_mean > SHARED / batch.codes.shape[1] * energy) & (of_mean < ALL * energy)
    return balanced_channel(batch.channel), batch.codes - shared[:, None, None] * mean


def balanced_channel(channel: Tensor) -> Tensor:
    """W H with W = (H H^H / level + LOADING I)^(−1), for a matched filter; both H and W H are [B,M,N].

    With a line of sight all atoms arrive at the antennas from one direction. That direction says little about the atoms
    and would outweigh the rest.
    """
    gram = channel @ channel.mH
    level = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)[:, None, None]
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram / level + LOADING * eye, channel)


def power_and_rise(g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Powers of atoms by moments, and the rise of ln L that each brings; see sparse().

    Args:
        g: b_l^H R_l⁻¹ b_l, [B,L,T], real.
        h: |b_l^H R_l⁻¹ y_l|², [B,L,T], real; its mean is g + p g².

    Returns:
        p ≥ 0 and Σ_l p h/(1 + p g) − ln(1 + p g), [B,T] each.
    """
    power = ((h - g).sum(1) / g.square().sum(1).clamp(min=torch.finfo(g.dtype).tiny)).clamp(min=0)
    raised = 1 + power.unsqueeze(1) * g
    return power, (power.unsqueeze(1) * h / raised - raised.log()).sum(1)
