"""One scene under all estimators: what a reader of the lab changes, and everything that follows from it.

Pure: a View goes in, a Look comes out. The panel of rislab.panels puts knobs and a figure around it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rislab.data.covariance import sample_factor, shrink
from rislab.data.geometry import WAVEFRONTS, Grid
from rislab.data.scenes import CODES, SYMBOLS, SceneBatch, SceneConfig
from rislab.data.simulation import place
from rislab.errors import InputError, check_choice, check_number
from rislab.music.benchmark import search_grid
from rislab.music.crb import Bound, crb
from rislab.music.estimate import Estimate, Predictor
from rislab.music.likelihood import information_criterion, polish
from rislab.music.metrics import Matching, match, tolerances_of
from rislab.music.sparse import rss_by_order, sparse
from rislab.music.spectra import beam_power, coarse_to_fine
from rislab.music.subspace import eigh_psd, signal_subspace, validate_covariance

SOURCES = ("truth", "sample", "sparse", "learned", "blend")
MAP = (181, 91)
CUT = 200  # points of a range cut

Place = tuple[float, float, float]


@dataclass(frozen=True)
class SceneSettings:
    """Everything that can be changed about one scene.

    Args:
        preset: "classroom" or "full".
        places: azimuth and elevation in degrees and range in metres of each source, within the field of view.
        snr_db, snapshots, wavefront, symbols, codes, seed: see SceneConfig and simulate().
        covariance: which covariance the spectra are of: "truth", "sample", "sparse", "learned" or "blend".
        beta: share β of the sample covariance in a blend with the learned one, in [0, 1].
        loading: diagonal loading of MVDR as a fraction of the trace, > 0.
        chosen: the source whose range the maps are taken at.
    """

    preset: str = "full"
    places: tuple[Place, ...] = ((-25.0, 10.0, 3.0), (5.0, -15.0, 4.0), (30.0, 5.0, 2.5))
    snr_db: float = 10.0
    snapshots: int = 16
    wavefront: str = "spherical"
    symbols: str = "varying"
    codes: str = "random"
    seed: int = 0
    covariance: str = "truth"
    beta: float = 0.2
    loading: float = 1e-3
    chosen: int = 0

    def __post_init__(self) -> None:
        check_choice("wavefront", self.wavefront, WAVEFRONTS)
        check_choice("symbols", self.symbols, SYMBOLS)
        check_choice("codes", self.codes, CODES)
        check_choice("covariance", self.covariance, SOURCES)
        check_number("beta", self.beta, 0.0, 1.0)
        check_number("loading", self.loading, 0.0, 1e6, exclusive=True)
        check_number("chosen", self.chosen, 0, len(self.places) - 1, integer=True)
        config = self.config()
        check_number("sources", len(self.places), 1, config.antennas - 1, integer=True)
        for azimuth, elevation, range_ in self.places:
            check_number("azimuth in degrees", azimuth, *map(math.degrees, config.azimuth))
            check_number("elevation in degrees", elevation, *map(math.degrees, config.elevation))
            check_number("range", range_, *config.range)

    @classmethod
    def of(cls, preset: str, **fields: Any) -> SceneSettings:
        """Three sources within the field of view of a preset, with further fields by keyword."""
        low, high = SceneConfig.preset(preset).range
        ranges = (low + share * (high - low) for share in (0.26, 0.37, 0.21))
        angles = ((-25.0, 10.0), (5.0, -15.0), (30.0, 5.0))
        places = tuple((*pair, round(range_, 2)) for pair, range_ in zip(angles, ranges, strict=True))
        return cls(**{"preset": preset, "places": places, **fields})

    def changed(self, **fields: Any) -> SceneSettings:
        """The view with some fields changed; raises InputError for a value out of range."""
        return dataclasses.replace(self, **fields)

    def config(self) -> SceneConfig:
        """The scenes that the view is one of."""
        return SceneConfig.preset(
            self.preset,
            sources=len(self.places),
            snr_db=self.snr_db,
            snapshots=self.snapshots,
            wavefront=self.wavefront,
            symbols=self.symbols,
            codes=self.codes,
        )

    def scene(self) -> SceneBatch:
        """The scene itself; channel, codes, symbols and noise hang on the seed alone."""
        config = self.config()
        azimuth, elevation, range_ = zip(*self.places, strict=True)
        return place(
            config, _radians(azimuth, config.azimuth), _radians(elevation, config.elevation), range_, seed=self.seed
        )


@dataclass(frozen=True, eq=False)
class SpectraView:
    """What a view shows at once: its spectra, before anybody has searched them for sources.

    Args:
        view, scene: where it comes from. factor: of the covariance that the view asks for, [1,N,J].
        grid: of the maps, 181 × 91 at the range of the chosen source.
        music, mvdr: spectra on it, [181,91].
        cut: their values along the range through the chosen source, by name, each [CUT]. ranges: of the cut, metres.
        eigenvalues: of the covariance, falling, the largest 12.
    """

    view: SceneSettings
    scene: SceneBatch
    factor: Tensor
    grid: Grid
    music: Tensor
    mvdr: Tensor
    cut: dict[str, Tensor]
    ranges: Tensor
    eigenvalues: Tensor


@dataclass(frozen=True, eq=False)
class SceneAnalysis(SpectraView):
    """Everything that follows from a view.

    Args:
        peaks: of MUSIC over azimuth, elevation and range. matching: with the truth. bound: of the scene.
    """

    peaks: Estimate
    matching: Matching
    bound: Bound


@dataclass
class SceneExplorer:
    """Looks at views, and keeps the grids between them: only what a change touches is computed anew.

    Args:
        model: network of the learned covariance; None where there is none.
    """

    model: Predictor | None = None
    _grids: dict[tuple[Any, ...], Grid] = field(default_factory=dict, repr=False)

    def look(self, view: SceneSettings) -> SceneAnalysis:
        """Compute everything about a view.

        Raises:
            InputError: for a learned or blended covariance without a network that knows the surface.
        """
        return self.finish(self.glance(view))

    def glance(self, view: SceneSettings) -> SpectraView:
        """The first part of a look, a quarter of its time: spectra, range cut and eigenvalues; raises as look()."""
        scene = view.scene()
        config = scene.config
        factor = self.factor(view, scene)
        at = view.places[view.chosen][2]
        maps = self._grid(config, at, lambda: config.grid((*MAP, 1), range=(at, at)))
        line = Grid(
            maps.array,
            scene.azimuth[0, view.chosen].reshape(1).double(),
            scene.elevation[0, view.chosen].reshape(1).double(),
            1 / torch.linspace(1 / config.range[1], 1 / config.range[0], CUT, dtype=torch.float64),
        )
        music, mvdr = spectra(factor, len(view.places), maps, loading=view.loading)
        cuts = spectra(factor, len(view.places), line, loading=view.loading)
        return SpectraView(
            view=view,
            scene=scene,
            factor=factor,
            grid=maps,
            music=music[..., 0],
            mvdr=mvdr[..., 0],
            cut={name: values[0, 0] for name, values in zip(("MUSIC", "MVDR"), cuts, strict=True)},
            ranges=line.range,
            eigenvalues=torch.linalg.svdvals(factor[0]).square()[:12],
        )

    def finish(self, glance: SpectraView) -> SceneAnalysis:
        """The look that begins with a glance: the search in three dimensions, matching and the bound."""
        config = glance.scene.config
        volume = self._grid(config, None, lambda: search_grid(config))
        peaks = coarse_to_fine(glance.factor, len(glance.view.places), volume)
        return SceneAnalysis(
            **glance.__dict__,
            peaks=peaks,
            matching=match(peaks, glance.scene, tolerances=tolerances_of(config)),
            bound=crb(glance.scene),
        )

    def factor(self, view: SceneSettings, scene: SceneBatch) -> Tensor:
        """The factor [1,N,J] of the covariance that a view asks for."""
        if view.covariance == "truth":
            return scene.factor()
        if view.covariance == "sample":
            return sample_factor(scene)
        if view.covariance == "sparse":
            found = polish(scene, sparse(scene, len(view.places)))
            return found.factor(scene.config.array())
        if self.model is None:
            raise InputError(
                f"covariance is {view.covariance!r}, and no network is given; allowed: truth, sample, sparse"
            )
        predicted = self.model.predict(scene).to(scene.snapshots)
        return predicted if view.covariance == "learned" else shrink(predicted, sample_factor(scene), view.beta)

    def _grid(self, config: SceneConfig, at: float | None, make: Callable[[], Grid]) -> Grid:
        """The grid of the maps at a range, or of the search if `at` is None: made once for each kind of scene."""
        key = config.ris_shape, config.wavelength, config.wavefront, config.azimuth, config.elevation, config.range, at
        if key not in self._grids:
            # A few: each may keep tens of megabytes of steering vectors.
            while len(self._grids) >= 4:
                del self._grids[next(iter(self._grids))]
            self._grids[key] = make()
        return self._grids[key]


def spectra(factor: Tensor, sources: int, grid: Grid, *, loading: float) -> tuple[Tensor, Tensor]:
    """The values of music() and mvdr() of one scene, in one pass over the grid and without their peaks.

    The steering vectors of the maps are read from memory once for both, which takes longer than the arithmetic.

    Args:
        factor: [1,N,J], complex. sources: K. grid: [P], [Q], [R]. loading: see mvdr().

    Returns:
        MUSIC and MVDR, [P,Q,R] each.

    Raises:
        InputError: see signal_subspace().
    """
    matrix = validate_covariance(factor, grid.array.count)
    values, vectors = eigh_psd(matrix)
    weighted = vectors * (values / (values + loading)).sqrt().unsqueeze(-2)
    columns = torch.cat([signal_subspace(matrix, sources), weighted], dim=-1)  # [1, N, K+J]
    power = beam_power(columns.permute(2, 1, 0), grid)  # [K+J, P, Q, R], of each column by itself
    smallest = torch.finfo(power.dtype).eps
    music, mvdr = (1 - part.sum(0) for part in (power[:sources], power[sources:]))
    return 1 / music.clamp(min=smallest), loading / mvdr.clamp(min=smallest)


def order_criteria(scene: SceneBatch, most: int = 5) -> dict[str, list[float]]:
    """MDL and AIC of 0 … most sources by sparse and polished fits, less the smallest; a fifth of a second for each."""
    fits = list(rss_by_order(scene, most))
    named = {}
    for criterion in ("mdl", "aic"):
        values = [float(information_criterion(scene, left, k, criterion=criterion)) for k, left in enumerate(fits)]
        named[criterion] = [value - min(values) for value in values]
    return named


def _radians(degrees: tuple[float, ...], interval: tuple[float, float]) -> list[float]:
    # The edge of the field of view must not fall outside it by rounding.
    return [min(max(math.radians(value), interval[0]), interval[1]) for value in degrees]
