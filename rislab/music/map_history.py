"""The map during training: what MUSIC sees of one scene through the network, epoch by epoch.

A run calls Film.follow() after each epoch. That costs one forward of one scene; maps, searches and matching are
computed by whoever looks at a frame, and once only, so that watching does not slow the training that is watched.
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
from rislab.data.geometry import Grid
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_number
from rislab.music.benchmark import search_grid
from rislab.music.estimate import Estimate, Predictor
from rislab.music.metrics import match, tolerances_of
from rislab.music.spectra import coarse_to_fine, music_spectrum


class WatchedScene:
    """One scene and the grids that it is looked at with.

    Args:
        scene: one scene. sources: K that MUSIC is told; the number of the scene's sources if None.
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
    """A scene as a network sees it after some epoch; all but the prediction is computed when first asked for.

    Args:
        subject: the scene. epoch: 0 before training. factor: what the network predicts, [1,N,Kmax].
    """

    def __init__(self, subject: WatchedScene, epoch: int, factor: Tensor) -> None:
        self.epoch = epoch
        self.factor = factor
        self._subject = subject

    @cached_property
    def nmse(self) -> float:
        """Of R_pred on this scene; NaN or infinity where the prediction is not finite."""
        return float(nmse(self.factor, self._subject.scene.factor()))

    @cached_property
    def map(self) -> Tensor:
        """MUSIC on the predicted covariance, [P,Q] float32, linear; NaN everywhere if it has no spectrum, see `why`."""
        return self._seen[0]

    @property
    def why(self) -> str:
        """Why there is no map, in one sentence; "" where there is one."""
        return self._seen[1]

    @cached_property
    def _seen(self) -> tuple[Tensor, str]:
        try:
            return self._subject.map(self.factor), ""
        except InputError as error:
            # A prediction with NaN, or of too low a rank: an observation about the training, not a fault of the film.
            return torch.full(self._subject.truth.shape, torch.nan), str(error)

    @cached_property
    def peaks(self) -> Estimate | None:
        """The sources that MUSIC finds in three dimensions; None without a spectrum."""
        return None if self.why else coarse_to_fine(self.factor, self._subject.sources, self._subject.volume)

    @cached_property
    def found(self) -> int:
        """How many true sources are among the peaks, within the tolerances of match()."""
        scene = self._subject.scene
        return (
            0 if self.peaks is None else int(match(self.peaks, scene, tolerances=tolerances_of(scene.config)).hit.sum())
        )

    def line(self) -> str:
        """One line for a title or a terminal."""
        count = int(self._subject.scene.active.sum())
        seen = f"no spectrum: {self.why}" if self.why else f"{self.found} of {count} sources found"
        return f"epoch {self.epoch}: NMSE {self.nmse:.3g}, {seen}"


class MapHistory:
    """Frames of one scene during training: `panels.overfit(config, on_epoch=film.follow)`.

    Args:
        scene: one scene. sources: K that MUSIC is told; the number of the scene's sources if None.
        shape: points of the maps over azimuth and elevation, at the range of the first source.
        most: frames kept, ≥ 3. When there are more, every second epoch is let go, so that those that stay depend on
            the epochs alone; the first and the newest always stay.

    Raises:
        InputError: for several scenes, or numbers out of range.
    """

    def __init__(
        self, scene: SceneBatch, sources: int | None = None, *, shape: tuple[int, int] = (91, 46), most: int = 40
    ) -> None:
        check_number("most", most, 3, 10_000, integer=True)
        self._subject = WatchedScene(scene, sources, shape)
        self.most = most
        self._frames: list[Snapshot] = []
        self._spacing = 1
        self._model: weakref.ref[nn.Module] | None = None
        self._former: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._gate = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    @property
    def scene(self) -> SceneBatch:
        """The scene, on the CPU."""
        return self._subject.scene

    @property
    def grid(self) -> Grid:
        """Of the maps."""
        return self._subject.grid

    @property
    def truth(self) -> Tensor:
        """MUSIC on the true covariance, [P,Q] float32, linear."""
        return self._subject.truth

    def follow(self, model: nn.Module, epoch: int) -> None:
        """Take a frame; training is not changed by a bit, and no prediction can end it.

        Epoch 0, and any that is not after the last one, begins the film anew. A network whose film has given way to
        that of another one is not followed any more: a stopped run may still end its epoch.

        Args:
            model: with predict(batch), on any device, in any precision; its mode is put back. epoch: ≥ 0.

        Raises:
            InputError: for another kind of model, one that does not fit the scene, or an epoch below 0.
        """
        if not isinstance(model, Predictor):
            raise InputError(f"model is a {type(model).__name__}; allowed: a network with predict(batch)")
        check_number("epoch", epoch, 0, integer=True)
        try:
            factor = model.predict(self.scene).to("cpu", self.scene.snapshots.dtype)
        except RuntimeError as error:
            raise InputError(
                f"model cannot take the scene of the film ({error}); allowed: one for its surface"
            ) from None
        with self._gate:
            if epoch > 0 and model in self._former:
                return
            if self._model is not None and model is not self._model():
                self._former.update(old for old in [self._model()] if old is not None)
            self._model = weakref.ref(model)
            self._former.discard(model)
            if epoch == 0 or (self._frames and epoch <= self._frames[-1].epoch):
                self._frames, self._spacing = [], 1
            kept = self._on_spacing()
            while len(kept) >= self.most:
                self._spacing *= 2
                kept = self._on_spacing()
            self._frames = [*kept, Snapshot(self._subject, epoch, factor)]
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def frames(self) -> list[Snapshot]:
        """The frames so far by epoch, as a list of the caller's own."""
        with self._gate:
            return list(self._frames)

    @property
    def last(self) -> Snapshot | None:
        """The newest frame; None before the first."""
        with self._gate:
            return self._frames[-1] if self._frames else None

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function in the training thread after each new frame; returns what ends that.

        It must return at once and raise nothing: set an Event, and do the work elsewhere.
        """
        with self._gate:
            self._listeners.append(listener)
        return lambda: self._leave(listener)

    def _leave(self, listener: Callable[[], None]) -> None:
        with self._gate:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def _on_spacing(self) -> list[Snapshot]:
        """Frames on the spacing, with the first: the newest one stays only until the next has come."""
        first = self._frames[:1]
        return [*first, *(frame for frame in self._frames[1:] if (frame.epoch % self._spacing) == 0)]


def chosen(frames: list[Snapshot], most: int) -> list[Snapshot]:
    """At most `most` of the frames, evenly among them, with the first and the last.

    Args:
        frames: by epoch. most: ≥ 2.
    """
    check_number("most", most, 2, integer=True)
    if len(frames) <= most:
        return list(frames)
    return [frames[math.floor(place * (len(frames) - 1) / (most - 1) + 0.5)] for place in range(most)]
