"""The map during training: what MUSIC makes of one scene through the network, epoch by epoch.

A run calls MapHistory.take_snapshot() after each epoch. That costs one forward of one scene; maps, searches and
matching are computed once, when a snapshot is looked at, so that they do not slow the training.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from rislab.data.covariance import nmse
from rislab.data.grid import Grid
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_number
from rislab.music.benchmark import search_grid
from rislab.music.estimate import Estimate, Predictor
from rislab.music.metrics import match, tolerances_of
from rislab.music.spectra import coarse_to_fine, music_spectrum


class WatchedScene:
    """One scene with the grids of its maps and of the search.

    Args:
        scene: one scene.
        sources: K that MUSIC looks for, 1 ≤ K < N; the number of the scene's sources if None.
        shape: points of the map over azimuth and elevation.

    Raises:
        InputError: for several scenes, or numbers out of range.
    """

    def __init__(self, scene: SceneBatch, sources: int | None, shape: tuple[int, int]) -> None:
        if not isinstance(scene, SceneBatch) or len(scene) != 1:
            given = f"{len(scene)} scenes" if isinstance(scene, SceneBatch) else f"a {type(scene).__name__}"
            raise InputError(f"scene is {given}; allowed: a SceneBatch of one scene")
        self.scene = scene.to("cpu")
        config = scene.config
        self.sources = int(self.scene.active.sum()) if sources is None else sources
        check_number("sources", self.sources, 1, config.elements - 1, integer=True)
        self.range = float(self.scene.range[self.scene.active][0])
        self.grid: Grid = config.grid((*shape, 1), range=(self.range, self.range))
        self.volume: Grid = search_grid(config)
        self.truth = self.map(self.scene.factor())

    def map(self, factor: Tensor) -> Tensor:
        """MUSIC [P,Q] on the covariance of a factor [1,N,J], at the range of the first source; linear, float32."""
        return music_spectrum(factor, self.sources, self.grid, refine=False).values[0, :, :, 0].to(torch.float32)


class Snapshot:
    """What a network makes of the scene after some epoch; all but the prediction is computed when first asked for.

    Args:
        watched: the scene.
        epoch: ≥ 0; 0 is before training.
        factor: [1,N,C], complex; what the network predicts.
    """

    def __init__(self, watched: WatchedScene, epoch: int, factor: Tensor) -> None:
        self.epoch = epoch
        self.factor = factor
        self._watched = watched

    @cached_property
    def nmse(self) -> float:
        """Of R_pred on this scene; NaN or infinity where the prediction is not finite."""
        return float(nmse(self.factor, self._watched.scene.factor()))

    @property
    def map(self) -> Tensor:
        """MUSIC on the predicted covariance, [P,Q], float32, linear; NaN everywhere if there is a `problem`."""
        return self._map_and_problem[0]

    @property
    def problem(self) -> str:
        """Why there is no map, in one sentence; "" where there is one."""
        return self._map_and_problem[1]

    @cached_property
    def _map_and_problem(self) -> tuple[Tensor, str]:
        try:
            return self._watched.map(self.factor), ""
        except InputError as error:
            # A prediction with NaN, or of too low a rank, is an observation about the training.
            return torch.full(self._watched.truth.shape, torch.nan), str(error)

    @cached_property
    def peaks(self) -> Estimate | None:
        """The sources that MUSIC finds in three dimensions; None without a spectrum."""
        return None if self.problem else coarse_to_fine(self.factor, self._watched.sources, self._watched.volume)

    @cached_property
    def hits(self) -> int:
        """How many true sources are among the peaks, within the tolerances of match()."""
        if self.peaks is None:
            return 0
        scene = self._watched.scene
        return int(match(self.peaks, scene, tolerances=tolerances_of(scene.config)).hit.sum())

    def line(self) -> str:
        """One line for a title or a terminal."""
        count = int(self._watched.scene.active.sum())
        result = f"no spectrum: {self.problem}" if self.problem else f"{self.hits} of {count} sources found"
        return f"epoch {self.epoch}: NMSE {self.nmse:.3g}, {result}"


class MapHistory:
    """Snapshots of one scene during training: `panels.overfit(config, on_epoch=history.take_snapshot)`.

    Args:
        scene: one scene.
        sources: K that MUSIC looks for; the number of the scene's sources if None.
        shape: points of the maps over azimuth and elevation, at the range of the first source.
        most: largest number of snapshots, ≥ 3. If there are more, every second epoch is dropped, so that those that
            stay depend on the epochs alone; the first and the newest always stay.

    Attributes:
        scene: on the CPU.
        grid: of the maps.
        truth: MUSIC on the true covariance, [P,Q], float32, linear.

    Raises:
        InputError: for several scenes, or numbers out of range.
    """

    def __init__(
        self, scene: SceneBatch, sources: int | None = None, *, shape: tuple[int, int] = (91, 46), most: int = 40
    ) -> None:
        check_number("most", most, 3, 10_000, integer=True)
        watched = WatchedScene(scene, sources, shape)
        self._watched, self.most = watched, most
        self.scene, self.grid, self.truth = watched.scene, watched.grid, watched.truth
        self._snapshots: list[Snapshot] = []
        self._spacing = 1
        self._model: weakref.ref[nn.Module] | None = None
        self._former: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def take_snapshot(self, model: nn.Module, epoch: int) -> None:
        """Store what a network predicts; training is not changed by a bit, and no prediction can end it.

        Epoch 0, and any that is not after the last one, begins the history anew. A network that another one has
        replaced is ignored from then on: a stopped run may still end its epoch.

        Args:
            model: network with predict(batch), on any device, in any precision; its mode is put back.
            epoch: ≥ 0.

        Raises:
            InputError: for another kind of model, one that does not fit the scene, or an epoch below 0.
        """
        if not isinstance(model, Predictor):
            raise InputError(f"model is a {type(model).__name__}; allowed: a network with predict(batch)")
        check_number("epoch", epoch, 0, integer=True)
        try:
            factor = model.predict(self.scene).to("cpu", self.scene.snapshots.dtype)
        except RuntimeError as error:
            raise InputError(f"model cannot take the scene ({error}); allowed: one for its surface") from None
        with self._lock:
            if epoch > 0 and model in self._former:
                return
            if self._model is not None and model is not self._model():
                self._former.update(old for old in [self._model()] if old is not None)
            self._model = weakref.ref(model)
            self._former.discard(model)
            if epoch == 0 or (self._snapshots and epoch <= self._snapshots[-1].epoch):
                self._snapshots, self._spacing = [], 1
            retained = self._on_spacing()
            while len(retained) >= self.most:
                self._spacing *= 2
                retained = self._on_spacing()
            self._snapshots = [*retained, Snapshot(self._watched, epoch, factor)]
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def snapshots(self) -> list[Snapshot]:
        """The snapshots so far by epoch, as a list of the caller's own."""
        with self._lock:
            return list(self._snapshots)

    @property
    def last(self) -> Snapshot | None:
        """The newest snapshot; None before the first."""
        with self._lock:
            return self._snapshots[-1] if self._snapshots else None

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function in the training thread after each new snapshot.

        Args:
            listener: returns at once and raises nothing: it sets an Event, and the work is done elsewhere.

        Returns:
            Function that ends the subscription.
        """
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._unsubscribe(listener)

    def _unsubscribe(self, listener: Callable[[], None]) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def _on_spacing(self) -> list[Snapshot]:
        """Snapshots on the spacing, with the first: the newest one stays only until the next has come."""
        first = self._snapshots[:1]
        return [*first, *(one for one in self._snapshots[1:] if one.epoch % self._spacing == 0)]


def evenly_spaced(snapshots: list[Snapshot], most: int) -> list[Snapshot]:
    """At most `most` ≥ 2 of the snapshots, evenly among them, with the first and the last."""
    check_number("most", most, 2, integer=True)
    if len(snapshots) <= most:
        return list(snapshots)
    last = len(snapshots) - 1
    return [snapshots[math.floor(place * last / (most - 1) + 0.5)] for place in range(most)]
