"""Quantities in which symptoms of faults are stated: measured on a short training, or on the package itself."""

from __future__ import annotations

import itertools
import math
import tempfile
import types
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rislab.faults.fault import Symptom
from rislab.faults.gradient_attribution import GradientAttribution, Values, attribute_gradients
from rislab.training.records import EpochRecord

Flags = NDArray[np.bool_]

# 84 scenes in micro-batches of 8 are eleven, the last of 4; windows of 4, 4 and 3 of them.
SCENES = 84
SETTING: dict[str, Any] = {"epochs": 2, "micro_batch": 8, "accumulation_steps": 4, "clip_norm": None}
# Hidden features of the network on which symptoms are measured; a wider network shows the same.
WIDTH = 128
# What one scene of the set can be made to hold.
POISONS = {"none": 1.0, "loud": 1e3, "overflow": 1e25, "silence": 0.0}


def examine(package: types.ModuleType, *, true_gradients: bool = True, **setting: Any) -> GradientAttribution:
    """Attribute the gradients of a short training in a package; `setting` is that of prepare_training()."""
    config, data, model, validation = prepare_training(package, **setting)
    return attribute_gradients(package, config, data, model, validation=validation, true_gradients=true_gradients)


def prepare_training(
    package: types.ModuleType,
    *,
    scenes: int = SCENES,
    poison: str = "none",
    validation: int = 0,
    width: int = 512,
    **changes: Any,
) -> tuple[Any, Any, Any, Any]:
    """What a short training in a package needs: its TrainConfig, its scenes, its network, and fresh scenes or None.

    Args:
        package: see patched().
        scenes: size of the training set.
        poison: "overflow" makes the snapshots of one scene so large that their power is infinite in float32,
            "silence" makes them 0, "loud" makes them a thousand times larger.
        validation: number of validation scenes.
        width: hidden features of the network.
        changes: fields of TrainConfig that differ from SETTING.
    """
    config = package.sanity.OverfitConfig(validation=validation)
    data = package.data.simulation.simulate(config.scene_config(), scenes, seed=0)
    snapshots = data.snapshots.clone()
    snapshots[scenes // 2] *= POISONS[poison]
    training = config.training(**{**SETTING, **changes})
    model = package.model.network.CovarianceNet.build(config.scene_config(), seed=config.seed, width=width)
    return training, replace(data, snapshots=snapshots), model, config.validation_data()


def symptom_reader(package: types.ModuleType) -> Callable[[Symptom], float]:
    """A function that measures symptoms on a package, trained once for each setting, and again for true gradients."""
    runs: dict[tuple[tuple[str, Any], ...], tuple[bool, GradientAttribution]] = {}

    def measure(symptom: Symptom) -> float:
        if symptom.quantity in OF_A_PACKAGE:
            return OF_A_PACKAGE[symptom.quantity](package)
        setting, needed = tuple(sorted(symptom.setting.items())), symptom.quantity in OF_TRUE_GRADIENTS
        if setting not in runs or needed > runs[setting][0]:
            runs[setting] = needed, examine(package, width=WIDTH, true_gradients=needed, **symptom.setting)
        return OF_A_TRAINING[symptom.quantity](runs[setting][1])

    return measure


def _full_windows(run: GradientAttribution) -> Flags:
    """Which windows hold as many micro-batches as the largest."""
    sizes = np.array([window.micro_batches for window in run.step_records])
    return np.asarray(sizes == sizes.max())


def _own_weights(run: GradientAttribution) -> Flags:
    """Which weights belong to the declared window, [W, M]."""
    columns = np.arange(run.micro_batch_weights.shape[1])
    edges = np.array([*run.window_starts, run.micro_batch_weights.shape[1]])
    rows = np.arange(len(run.step_records)) % len(run.window_starts)
    return np.asarray((columns >= edges[rows, None]) & (columns < edges[rows + 1, None]))


def _furthest(values: Values, centre: float = 1.0) -> float:
    """The value furthest from the centre among those that are numbers; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known[np.argmax(np.abs(known - centre))]) if len(known) else math.nan


def _first_epoch(run: GradientAttribution) -> list[Any]:
    return [window for window in run.step_records if window.epoch == 1]


def _share_that_changed(values: list[Any]) -> float:
    """Share of the values after the first that differ from the one before."""
    return float(np.mean([one != other for one, other in itertools.pairwise(values)]))


def _finite_mean(run: GradientAttribution) -> float:
    """Sample-weighted mean of the true losses of the first epoch's windows, those that are not finite left out."""
    pairs = zip(_first_epoch(run), run.true_loss, strict=False)
    known = [(window.samples, float(loss)) for window, loss in pairs if np.isfinite(loss)]
    return sum(samples * loss for samples, loss in known) / sum(samples for samples, _ in known)


def _end(run: GradientAttribution) -> EpochRecord:
    return run.epoch_records[-1]


OF_TRUE_GRADIENTS: dict[str, Callable[[GradientAttribution], float]] = {
    "α of full windows": lambda run: _furthest(run.alpha[_full_windows(run)]),
    "α of the first window": lambda run: float(run.alpha[0]),
    "α of the ragged window": lambda run: float(run.alpha[len(run.window_starts) - 1]),
    "cosine": lambda run: _furthest(run.cosine),
    "relative error of the gradient": lambda run: _furthest(run.relative_error, 0.0),
    "relative error against one batch": lambda run: _furthest(run.coupling, 0.0),
    "largest weight of a micro-batch": lambda run: float(np.nanmax(run.micro_batch_weights[_own_weights(run)])),
    "weight from outside the window": lambda run: _furthest(run.micro_batch_weights[~_own_weights(run)], 0.0),
    "share of micro-batches that reached a step": lambda run: float(
        (run.micro_batch_weights[_own_weights(run)] > 0.1).mean()
    ),
}

OF_A_TRAINING: dict[str, Callable[[GradientAttribution], float]] = {
    **OF_TRUE_GRADIENTS,
    "steps per window": lambda run: float(run.steps.mean()),
    "windows per epoch": lambda run: len(_first_epoch(run)) / len(run.window_starts),
    "scenes per epoch": lambda run: sum(window.samples for window in _first_epoch(run)) / run.scenes,
    "backwards per forward": lambda run: _end(run).counters.backwards / _end(run).counters.forwards,
    "training-mode forwards per micro-batch": lambda run: (
        _end(run).counters.forwards / sum(window.micro_batches for window in run.step_records)
    ),
    "scheduler ticks per step": lambda run: _end(run).counters.scheduler_ticks / max(1.0, run.steps.sum()),
    "steps on NaN or infinity": lambda run: float(run.nonfinite_steps.sum()),
    "skipped steps": lambda run: float(sum(not window.applied for window in run.step_records)),
    "last loss scale over the first": lambda run: run.step_records[-1].loss_scale / run.step_records[0].loss_scale,
    "rate at the first step over the declared": lambda run: float(
        run.head_rate[0] / run.step_records[0].learning_rate["head"]
    ),
    "rate at the last step over the largest": lambda run: float(run.head_rate[-1] / np.nanmax(run.head_rate)),
    "first loss scale": lambda run: run.step_records[0].loss_scale,
    "smallest relative movement in a window": lambda run: float(run.relative_update.min()),
    "steps at the lowest rate": lambda run: float((run.head_rate <= 1.001 * np.nanmin(run.head_rate)).sum()),
    "loss terms that are always 0": lambda run: float(run.zero_terms),
    "share of windows that moved a weight": lambda run: float((run.relative_update > 0).mean()),
    "share of tensors that never moved": lambda run: float(np.mean(run.unchanged)),
    "reported over true loss": lambda run: run.epoch_records[0].train / run.true_epoch_loss(1),
    "epochs reported finite though a window was not": lambda run: float(
        sum(
            bool(np.isfinite(end.train))
            and not all(np.isfinite(window.loss) for window in run.step_records if window.epoch == end.epoch)
            for end in run.epoch_records
        )
    ),
    "validation over that of the averaged weights": lambda run: (
        math.nan if (average := _end(run).ema) is None else (_end(run).validation or 0.0) / average
    ),
    "relative error of a window's reported loss": lambda run: _furthest(
        np.array([window.loss for window in run.step_records]) / run.true_loss - 1, 0.0
    ),
    "windows reported finite whose loss was not": lambda run: float(
        sum(
            bool(np.isfinite(w.loss) and not np.isfinite(loss))
            for w, loss in zip(run.step_records, run.true_loss, strict=True)
        )
    ),
    "reported over true loss of the last epoch": lambda run: _end(run).train / run.true_epoch_loss(_end(run).epoch),
    "reported over true loss of the finite windows": lambda run: run.epoch_records[0].train / _finite_mean(run),
    "share of epochs that moved the reported loss": lambda run: _share_that_changed(
        [end.train for end in run.epoch_records]
    ),
    "share of epochs that moved the validation": lambda run: _share_that_changed(
        [end.validation for end in run.epoch_records]
    ),
}


def _reordered(package: types.ModuleType) -> float:
    """Weighted further terms of the loss at the true factor with its sources in another order."""
    batch = package.data.simulation.simulate(package.data.SceneConfig.preset("classroom", sources=3), 8, seed=0)
    truth, phase = batch.factor(), package.model.curriculum.THREE_PHASES[0]
    loss = package.model.losses.compute_loss(truth.flip(-1).requires_grad_(), batch, phase)
    return float(torch.stack([*loss.terms.values()]).abs().max())


def _zero_score(package: types.ModuleType) -> float:
    """What the evaluation gives for an answer of zeros."""
    batch = package.sanity.OverfitConfig(scenes=64).data()
    zeros = package.sanity.ladder_checks.OracleModel(batch, torch.zeros_like)
    return float(package.training.loop.evaluate(zeros, batch).nmse)


def _identity_line(package: types.ModuleType) -> float:
    """The identity's line over its NMSE, formed from dense matrices."""
    batch = package.sanity.OverfitConfig(scenes=64).data()
    truth = batch.covariance()
    errors = (torch.eye(truth.shape[-1]) - truth).abs().square().sum((1, 2)) / truth.abs().square().sum((1, 2))
    return float(package.data.covariance.identity_baseline(batch) / errors.mean())


def _constant_line(package: types.ModuleType) -> float:
    """The line of the best constant over 1, the score of zeros."""
    return float(package.data.covariance.constant_baseline(package.sanity.OverfitConfig(scenes=64).data()))


def _resumed(package: types.ModuleType) -> float:
    """Loss of an epoch that was stopped, saved and resumed, over the loss of an unbroken epoch."""
    config = package.sanity.OverfitConfig(scenes=64, micro_batch=8, accumulation_steps=2, epochs=1)
    data, training = config.data(), config.training()
    straight = [*package.training.loop.fit(config.model(), data, training)][-1].train
    state = package.training.state.TrainState.begin(config.model(), len(data), training)
    with closing(package.training.loop.fit(state.model, data, training, resume=state)) as stream:
        next(stream), next(stream)
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "checkpoint.pt")
        resumed = [*package.training.loop.fit(config.model(), data, training, resume=folder)][-1].train
    return float(resumed / straight)


def _loss_error(package: types.ModuleType) -> float:
    """Largest difference of the loss from the same formed of dense matrices in float64."""
    truth = package.sanity.OverfitConfig(scenes=64).data().factor()
    predicted = 1.1 * truth.roll(1, dims=0) + 0.1 * truth
    dense, answer = (factor.to(torch.complex128) @ factor.mH.to(torch.complex128) for factor in (truth, predicted))
    exact = (answer - dense).abs().square().sum((1, 2)) / dense.abs().square().sum((1, 2))
    return float((package.data.covariance.nmse(predicted, truth) - exact).abs().max())


def _loss_at_the_truth(package: types.ModuleType) -> float:
    """Mean loss of the perfect answer."""
    truth = package.sanity.OverfitConfig(scenes=64).data().factor()
    return float(package.data.covariance.nmse(truth, truth).mean())


def _recall_behind_a_false_estimate(package: types.ModuleType) -> float:
    """Recall of the truth itself, one far-off estimate in front of it."""
    batch = package.sanity.OverfitConfig(scenes=64).data()
    false = torch.full((len(batch), 1), 1.5)
    fields = (batch.azimuth, batch.elevation, batch.range, batch.power)
    active = torch.cat([false > 0, batch.active], dim=1)
    estimate = package.music.estimate.Estimate(*(torch.cat([false, field], dim=1) for field in fields), active)
    return float(package.music.metrics.match(estimate, batch).recall)


def _spread_of_symbols(package: types.ModuleType) -> float:
    """Variance of a source's symbols over the snapshots, over their power, where they are asked to vary."""
    config = package.data.SceneConfig.preset("classroom", symbols="varying", sources=1)
    symbols = package.data.simulation.simulate(config, 64, seed=0).symbols  # [B, L, 1]
    return float(symbols.var(dim=1).mean() / symbols.abs().square().mean())


def _integer_degrees(package: types.ModuleType) -> float:
    """Share of the true azimuths that are integer numbers of degrees."""
    degrees = torch.rad2deg(package.sanity.OverfitConfig(scenes=64).data().azimuth)
    return float(((degrees - degrees.round()).abs() < 1e-4).double().mean())


def _leaked(package: types.ModuleType) -> float:
    """Share of the validation scenes that are training scenes."""
    config = package.sanity.OverfitConfig(scenes=64, validation=64)
    known = set(config.data().hashes())
    return float(np.mean([digest in known for digest in config.validation_data().hashes()]))


def _slope_by_range(package: types.ModuleType) -> float:
    """Slope of the phases by the range as autograd has it, over finite differences of the definition, at 0.6 m."""
    config = package.data.SceneConfig.preset("classroom")
    azimuth, elevation, range_ = (torch.tensor(value, dtype=torch.float64) for value in (0.3, -0.2, 0.6))
    ahead, behind = (
        package.sanity.conventions.steering_by_definition(config, azimuth, elevation, range_ + h) for h in (1e-4, -1e-4)
    )
    slope = -(ahead * behind.conj()).angle() / 2e-4  # [N], steering vectors carry minus the phase
    phase = config.array(dtype=torch.float64).phase(azimuth, elevation, range_.requires_grad_())
    (derivative,) = torch.autograd.grad(slope @ phase, range_)
    return float(derivative / (slope @ slope))


def _brightest_beam(package: types.ModuleType) -> float:
    """How well the network's brightest beam overlaps with a lone loud source, over the best of its beams."""
    config = package.data.SceneConfig.preset("classroom", sources=1, snr_db=60.0)
    batch, shape = package.data.simulation.simulate(config, 64, seed=0), package.model.network.default_beams(config)
    maps = package.model.network.CovarianceNet.build(config).maps
    power = maps(batch.snapshots, batch.codes, batch.channel)  # [B, G]
    beams = config.grid(shape, spacing="sine").steering(torch.complex64)  # [G, N]
    overlap = (beams.conj() @ batch.steering()[..., 0].mT).abs().square().mT  # [B, G]
    brightest = overlap.gather(1, power.argmax(dim=1, keepdim=True)).squeeze(1)
    return float((brightest / overlap.amax(dim=1)).mean())


def _azimuth_error(package: types.ModuleType, estimator: str, *, of_factor: bool = False) -> float:
    """Mean azimuth error of an estimator's highest cells on exact covariances of one source, degrees.

    Of cells, since refinement brings peaks home that began at a wrong place.
    """
    config = package.data.SceneConfig.preset("classroom", sources=1)
    batch = package.data.simulation.simulate(config, 16, seed=0)
    factor = batch.factor()
    matrix = torch.cat([factor, 0.5 * factor], dim=-1) if of_factor else batch.covariance()
    peaks = vars(package.music.spectra)[estimator](matrix, 1, config.grid((37, 19, 7)), refine=False).peaks
    return float(torch.rad2deg(peaks.azimuth - batch.azimuth).abs().mean())


def _derivative_by_range(package: types.ModuleType) -> float:
    """Derivative of the steering vector by the range, over finite differences of the definition, at 0.6 m."""
    config = package.data.SceneConfig.preset("classroom")
    place = [torch.tensor(value, dtype=torch.float64) for value in (0.3, -0.2, 0.6)]
    ahead, behind = (
        package.sanity.conventions.steering_by_definition(config, *place[:2], place[2] + h) for h in (1e-5, -1e-5)
    )
    slope = (ahead - behind) / 2e-5  # [N]
    derivative = config.array(dtype=torch.float64).derivatives(*place)[2]
    return float(((slope.conj() @ derivative) / (slope.conj() @ slope)).real)


def _trace(package: types.ModuleType) -> float:
    """Mean trace of the true covariances over the number of elements."""
    batch = package.sanity.OverfitConfig(scenes=64).data()
    return float(batch.factor().abs().square().sum((1, 2)).mean() / batch.config.elements)


def _share_of_the_sample(package: types.ModuleType) -> float:
    """Share of the sample covariance in the blend that is asked for a fifth of it."""
    sample = package.data.covariance.sample_factor(package.sanity.OverfitConfig(scenes=64).data()[:8])
    blended = package.data.covariance.shrink(torch.zeros_like(sample), sample, 0.2)
    return float(blended.abs().square().sum() / sample.abs().square().sum())


def _change_with_the_channel(package: types.ModuleType) -> float:
    """Relative change of the network's answer when the channels are those of other scenes."""
    config = package.sanity.OverfitConfig(scenes=64)
    data, model = config.data(), config.model()
    answer, other = (model.predict(replace(data[:8], channel=data.channel[at : at + 8])) for at in (0, 8))
    return float((other - answer).norm() / answer.norm())


def _lost(package: types.ModuleType, part: str) -> float:
    """Share of the numbers in a part of a run's state that a checkpoint does not bring back."""
    config = package.sanity.OverfitConfig(scenes=64, micro_batch=32, epochs=1)
    training = config.training()
    ended, loaded = (package.training.state.TrainState.begin(config.model(), 64, training) for _ in range(2))
    for _ in package.training.loop.fit(ended.model, config.data(), training, resume=ended):
        with ended.randomness.current():
            torch.rand(1)  # so that the random state is not that of the start
    with tempfile.TemporaryDirectory() as folder:
        ended.save(Path(folder) / "checkpoint.pt")
        loaded.load(Path(folder) / "checkpoint.pt")
    before, after = (_numbers(state, part) for state in (ended, loaded))
    return 1.0 if before.shape != after.shape else float((before != after).double().mean())


def _numbers(state: Any, part: str) -> torch.Tensor:
    """A part of a TrainState as one vector."""
    tensors = {
        "average": [*state.ema.module.parameters()],
        "optimiser": [value for moments in state.optimizer.state.values() for value in moments.values()],
        "random state": state.randomness.to_plain()["torch"],
    }[part]
    return torch.cat([torch.zeros(0), *(tensor.detach().double().flatten() for tensor in tensors)])


OF_A_PACKAGE: dict[str, Callable[[types.ModuleType], float]] = {
    "score of zeros": _zero_score,
    "identity line over the identity's score": _identity_line,
    "line of the best constant": _constant_line,
    "loss of a resumed epoch over that of an unbroken one": _resumed,
    "largest loss term at the truth, sources reordered": _reordered,
    "largest error of the loss against dense float64": _loss_error,
    "mean loss at the truth": _loss_at_the_truth,
    "recall of the truth behind a false estimate": _recall_behind_a_false_estimate,
    "variance of a source's symbols over their power": _spread_of_symbols,
    "share of true azimuths on whole degrees": _integer_degrees,
    "share of validation scenes known from training": _leaked,
    "slope of the phases by range over the definition's": _slope_by_range,
    "overlap of the brightest beam with a lone source": _brightest_beam,
    "azimuth error of MUSIC on exact covariances, degrees": lambda package: _azimuth_error(package, "music_spectrum"),
    "azimuth error of MUSIC on exact factors, degrees": lambda package: _azimuth_error(
        package, "music_spectrum", of_factor=True
    ),
    "azimuth error of MVDR on exact covariances, degrees": lambda package: _azimuth_error(package, "mvdr_spectrum"),
    "derivative by range over the definition's": _derivative_by_range,
    "trace of the truth over the number of elements": _trace,
    "share of the sample covariance at β = 0.2": _share_of_the_sample,
    "change of the answer with another channel": _change_with_the_channel,
    "share of the average that a checkpoint loses": lambda package: _lost(package, "average"),
    "share of the optimiser's state that a checkpoint loses": lambda package: _lost(package, "optimiser"),
    "share of the random state that a checkpoint loses": lambda package: _lost(package, "random state"),
}
