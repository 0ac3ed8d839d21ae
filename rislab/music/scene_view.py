"""One scene under every estimator: SceneSettings go in, a SceneAnalysis comes out.

Nothing here draws: the music panel puts knobs and a figure around it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rislab.config import Config, choice, integer, number, same
from rislab.data.covariance import sample_factor, shrink
from rislab.data.grid import Grid
from rislab.data.scene_config import SceneConfig, preset
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import place
from rislab.errors import InputError, check_number, shown
from rislab.music.benchmark import search_grid
from rislab.music.crb import Bound, crb
from rislab.music.estimate import Estimate, Predictor
from rislab.music.likelihood import polish
from rislab.music.metrics import Matching, match, tolerances_of
from rislab.music.posterior import Posterior, sample_posterior
from rislab.music.posterior_view import density_cut, density_map
from rislab.music.sparse import sparse
from rislab.music.spectra import coarse_to_fine, power_on_grid
from rislab.music.subspace import eigh_psd, signal_subspace, validate_covariance

COVARIANCE_KINDS = ("truth", "sample", "sparse", "posterior", "learned", "blend")
MAP = (181, 91)  # points of a map over azimuth and elevation
COARSE_MAP = (61, 31)  # the same while something moves
CUT = 200  # points of a range cut
EIGENVALUES = 12
# Grids that an explorer keeps: each may hold tens of megabytes of steering vectors.
GRIDS = 4

Place = tuple[float, float, float]


@dataclass(frozen=True)
class SceneSettings(Config):
    """Everything that can be changed about one scene.

    `places` are azimuth and elevation in degrees and range in metres of each source, within the field of view.
    """

    preset: str = preset("full")
    places: tuple[Place, ...] = ((-25.0, 10.0, 3.0), (5.0, -15.0, 4.0), (30.0, 5.0, 2.5))
    snr_db: float = number(10.0, -100.0, 200.0, "mean signal over noise power at the antennas", unit="dB")
    snapshots: int = same(SceneConfig, "snapshots")
    wavefront: str = same(SceneConfig, "wavefront")
    symbols: str = same(SceneConfig, "symbols")
    codes: str = same(SceneConfig, "codes")
    seed: int = integer(0, 0, 2**63 - 1, "of channel, phase profiles, symbols and noise")
    covariance: str = choice("sample", COVARIANCE_KINDS, "covariance that the spectra are of")
    beta: float = number(0.2, 0.0, 1.0, "share β of the sample covariance in a blend with the learned one")
    loading: float = number(1e-3, 0.0, 1e6, "loading of MVDR over the mean eigenvalue", exclusive=True)
    chosen: int = integer(0, 0, 10**9, "source whose range the maps are taken at")

    def check(self) -> None:
        """Refuse places that are no triples or outside the field of view, too many of them, and a source beyond."""
        if not isinstance(self.places, tuple | list):
            raise InputError(f"places is {self.places!r}; allowed: a list of places")
        object.__setattr__(self, "places", tuple(tuple(one) if isinstance(one, list) else one for one in self.places))
        for one in self.places:
            if not isinstance(one, tuple) or len(one) != 3:
                raise InputError(f"a place is {one!r}; allowed: azimuth and elevation in degrees, range in metres")
        check_number("chosen", self.chosen, 0, len(self.places) - 1, integer=True)
        config = self.config()
        check_number("sources", len(self.places), 1, config.antennas - 1, integer=True)
        for azimuth, elevation, range_ in self.places:
            check_number("azimuth in degrees", azimuth, *in_degrees(config.azimuth))
            check_number("elevation in degrees", elevation, *in_degrees(config.elevation))
            check_number("range", range_, *config.range)

    @classmethod
    def of(cls, preset: str, **fields: Any) -> SceneSettings:
        """Three sources within the field of view of a preset, with further fields by keyword."""
        low, high = SceneConfig.preset(preset).range
        ranges = (low + share * (high - low) for share in (0.26, 0.37, 0.21))
        angles = ((-25.0, 10.0), (5.0, -15.0), (30.0, 5.0))
        places = tuple((*pair, round(range_, 2)) for pair, range_ in zip(angles, ranges, strict=True))
        return cls(**{"preset": preset, "places": places, **fields})

    @classmethod
    def like(cls, scene: SceneBatch, preset: str, **fields: Any) -> SceneSettings:
        """The sources of one scene that simulate() made of a preset, split "test", with the seed among the fields."""
        angles = [torch.rad2deg(values[0].double()) for values in (scene.azimuth, scene.elevation)]
        places = zip(*(values[scene.active[0]].tolist() for values in (*angles, scene.range[0].double())), strict=True)
        return cls(preset=preset, places=tuple(places), **fields)

    def config(self) -> SceneConfig:
        """Configuration of the scenes that this scene is one of."""
        return _config(self.preset, sources=len(self.places), **self.shared(SceneConfig))

    def scene(self) -> SceneBatch:
        """The scene; channel, phase profiles, symbols and noise depend on the seed alone."""
        config = self.config()
        azimuth, elevation, range_ = zip(*self.places, strict=True)
        angles = _radians(azimuth, config.azimuth), _radians(elevation, config.elevation)
        return place(config, *angles, range_, seed=self.seed)


@dataclass(frozen=True, eq=False, kw_only=True)
class SpectraView:
    """Spectra of one scene, before they are searched for sources."""

    settings: SceneSettings  # what was asked for
    scene: SceneBatch  # one scene
    factor: Tensor  # [1,N,J], complex; of the covariance that the settings name
    grid: Grid  # of the maps, P × Q directions at the range of the chosen source
    music: Tensor  # [P,Q], linear; MUSIC on the grid
    mvdr: Tensor  # [P,Q], linear; MVDR on the grid
    # both along the range through the chosen source, each [CUT], linear; by name, "MUSIC" and "MVDR"
    cut: dict[str, Tensor]
    ranges: Tensor  # [CUT], metres; of the cut
    eigenvalues: Tensor  # the largest 12 of the covariance, falling
    # distribution of the sources, if the settings name it: maps and cuts are its density then, and the factor is that
    # of its mean
    posterior: Posterior | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class SceneAnalysis(SpectraView):
    """Spectra of one scene with the sources in them."""

    peaks: Estimate  # of MUSIC over azimuth, elevation and range
    matching: Matching  # of the peaks with the true sources
    bound: Bound  # Cramér–Rao bound of the scene


@dataclass
class SceneExplorer:
    """Analyses scenes, in several threads too, and keeps the grids between them."""

    model: Predictor | None = None  # network of the learned covariance; None where there is none
    grids: dict[tuple[Any, ...], Grid] = field(default_factory=dict, init=False, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def analyse(self, settings: SceneSettings) -> SceneAnalysis:
        """Everything about a scene.

        Raises:
            InputError: for a learned or blended covariance without a network that knows the surface.
        """
        return self.complete(self.spectra(settings))

    def spectra(
        self, settings: SceneSettings, shape: tuple[int, int] = MAP, scene: SceneBatch | None = None
    ) -> SpectraView:
        """The first part of analyse(), a quarter of its time: spectra, range cut and eigenvalues; raises as it does.

        Args:
            settings: what to show.
            shape: points of the maps over azimuth and elevation.
            scene: that of the settings, if it was made before.
        """
        scene = settings.scene() if scene is None else scene
        config = scene.config
        posterior = None
        if settings.covariance == "posterior":
            posterior = sample_posterior(scene, sparse(scene, len(settings.places)))
            factor = posterior.mean().factor(config.array())
        else:
            factor = self.factor(settings, scene)
        at = settings.places[settings.chosen][2]
        maps = self._grid(config, (at, shape), lambda: config.grid((*shape, 1), range=(at, at)))
        line = Grid(
            maps.array,
            scene.azimuth[0, settings.chosen].reshape(1).double(),
            scene.elevation[0, settings.chosen].reshape(1).double(),
            1 / torch.linspace(1 / config.range[1], 1 / config.range[0], CUT, dtype=torch.float64),
        )
        if posterior is None:
            music, mvdr = music_and_mvdr(factor, len(settings.places), maps, loading=settings.loading)
            cuts = music_and_mvdr(factor, len(settings.places), line, loading=settings.loading)
        else:
            music = mvdr = density_map(posterior, maps).unsqueeze(-1)
            slot = _slot(posterior.mean(), scene, settings.chosen)
            cuts = (density_cut(posterior, slot, line.range)[None, None],) * 2
        return SpectraView(
            settings=settings,
            scene=scene,
            factor=factor,
            grid=maps,
            music=music[..., 0],
            mvdr=mvdr[..., 0],
            cut={name: values[0, 0] for name, values in zip(("MUSIC", "MVDR"), cuts, strict=True)},
            ranges=line.range,
            eigenvalues=torch.linalg.svdvals(factor[0]).square()[:EIGENVALUES],
            posterior=posterior,
        )

    def complete(self, spectra: SpectraView) -> SceneAnalysis:
        """The second part of analyse(): the search in three dimensions, the matching and the bound."""
        config = spectra.scene.config
        if spectra.posterior is None:
            volume = self._grid(config, None, lambda: search_grid(config))
            peaks = coarse_to_fine(spectra.factor, len(spectra.settings.places), volume)
        else:
            peaks = spectra.posterior.mean()
        return SceneAnalysis(
            **spectra.__dict__,
            peaks=peaks,
            matching=match(peaks, spectra.scene, tolerances=tolerances_of(config)),
            bound=crb(spectra.scene),
        )

    def factor(self, settings: SceneSettings, scene: SceneBatch) -> Tensor:
        """Factor [1,N,J] of the covariance that the settings name; the posterior has none."""
        if settings.covariance == "truth":
            return scene.factor()
        if settings.covariance == "sample":
            return sample_factor(scene)
        if settings.covariance == "sparse":
            estimate = polish(scene, sparse(scene, len(settings.places)))
            return estimate.factor(scene.config.array())
        if self.model is None:
            raise InputError(
                f"covariance is {settings.covariance!r}, and no network is given; "
                "allowed: truth, sample, sparse, posterior"
            )
        predicted = self.model.predict(scene).to(scene.snapshots)
        if settings.covariance == "learned":
            return predicted
        return shrink(predicted, sample_factor(scene), settings.beta)

    def _grid(self, config: SceneConfig, at: tuple[Any, ...] | None, make: Callable[[], Grid]) -> Grid:
        """The grid of the maps at a range, or of the search if `at` is None; the last few that were used are there."""
        names = ("ris_shape", "spacing", "wavelength", "wavefront", "azimuth", "elevation", "range")
        key = (*(getattr(config, name) for name in names), at)
        with self.lock:
            grid = self.grids.pop(key, None) or make()
            self.grids[key] = grid  # at the end: the first is the least recently used
            while len(self.grids) > GRIDS:
                del self.grids[next(iter(self.grids))]
        return grid


def _slot(estimate: Estimate, scene: SceneBatch, source: int) -> int:
    """The slot of an estimate that belongs to a source of the scene, however far they are apart."""
    matching = match(estimate, scene, tolerances=(math.pi, math.pi, 1e9))
    return int(matching.slot[0, source].clamp(min=0))


def music_and_mvdr(factor: Tensor, sources: int, grid: Grid, *, loading: float) -> tuple[Tensor, Tensor]:
    """Values of music_spectrum() and mvdr_spectrum() of one scene, in one pass over the grid and without their peaks.

    The steering vectors are read from memory once for both, which takes longer than the arithmetic. Of a factor
    [1,N,J]; MUSIC and MVDR are [P,Q,R] each, real, linear.

    Raises:
        InputError: see signal_subspace().
    """
    matrix = validate_covariance(factor, grid.array.count)
    values, vectors = eigh_psd(matrix)
    weighted = vectors * (values / (values + loading)).sqrt().unsqueeze(-2)
    columns = torch.cat([signal_subspace(matrix, sources), weighted], dim=-1)  # [1, N, K+J]
    power = power_on_grid(columns.permute(2, 1, 0), grid)  # [K+J, P, Q, R], of each column by itself
    smallest = torch.finfo(power.dtype).eps
    music, mvdr = (1 - part.sum(0) for part in (power[:sources], power[sources:]))
    return 1 / music.clamp(min=smallest), loading / mvdr.clamp(min=smallest)


def place_apart(settings: SceneSettings, degrees: float) -> SceneSettings:
    """The settings with sources 1 and 2 at some distance in azimuth, around the middle between them.

    Raises:
        InputError: for one source alone, a distance out of range, or places outside the field of view.
    """
    check_number("separation in degrees", degrees, 0.0, 180.0)
    most = widest_apart(settings)
    first, second, *others = settings.places
    middle, turn = (first[0] + second[0]) / 2, 0.5 if second[0] >= first[0] else -0.5
    if degrees > most:
        limit = f"at most {most:g} around their middle at {middle:g}, in the field of view"
        raise InputError(f"separation in degrees is {shown(degrees)}; allowed: {limit}")
    left, right = (middle - turn * degrees, *first[1:]), (middle + turn * degrees, *second[1:])
    return settings.changed(places=(left, right, *others))


def separation_of(settings: SceneSettings) -> float:
    """Degrees of azimuth between sources 1 and 2; 0 for one source alone."""
    places = settings.places
    return round(abs(places[1][0] - places[0][0]), 3) if len(places) > 1 else 0.0


def widest_apart(settings: SceneSettings) -> float:
    """How many degrees of azimuth place_apart() can put between sources 1 and 2.

    Raises:
        InputError: for one source alone.
    """
    if len(settings.places) < 2:
        raise InputError("separation needs two sources; allowed: 2 sources or more")
    middle = (settings.places[0][0] + settings.places[1][0]) / 2
    low, high = in_degrees(settings.config().azimuth)
    return 2 * min(middle - low, high - middle)


@lru_cache(maxsize=64)
def _config(preset: str, **fields: Any) -> SceneConfig:
    """Checked once, not at every move of a source."""
    return SceneConfig.preset(preset, **fields)


def in_degrees(interval: tuple[float, float]) -> tuple[float, float]:
    """An interval of radians in degrees, without what rounding adds: 60, not 59.99999999999999."""
    low, high = (round(math.degrees(value), 9) for value in interval)
    return low, high


def _radians(degrees: tuple[float, ...], interval: tuple[float, float]) -> list[float]:
    # The edge of the field of view must not fall outside it by rounding.
    return [min(max(math.radians(value), interval[0]), interval[1]) for value in degrees]
