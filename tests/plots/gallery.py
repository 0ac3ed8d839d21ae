"""Every figure that the plots room can draw, once, from small runs; what is hard to show is in them on purpose."""

from __future__ import annotations

import math
from collections.abc import Iterator

import plotly.graph_objects as go

from rislab.checkup.loop_watch import watch
from rislab.faults import catalogue, comparison
from rislab.faults.comparison import ComparisonCache
from rislab.faults.story import StoryConfig, repairs, replay
from rislab.music.benchmark import CovarianceError, Score
from rislab.music.localisation import locate
from rislab.music.residual import residual
from rislab.music.scene_view import SceneExplorer
from rislab.music.sparse import sparse
from rislab.plots import benchmark, checkup, faults, map_history, measurement, precision, scene, story, training, tuning
from rislab.plots.bound import bound_ellipses
from rislab.sanity import OverfitConfig, ladder
from rislab.sanity.precision import AccumulationCell
from rislab.tuning.analysis import Rerun
from rislab.tuning.tuning_config import TuningConfig
from tests.plots import test_map_history, test_precision, test_scene, test_spectra, test_training, test_tuning
from tests.plots.test_measurement import CASE
from tests.plots.test_training import change, run

Figures = Iterator[tuple[str, go.Figure]]


def figures() -> Figures:
    """Name and figure; the name begins with that of the function."""
    yield from test_spectra.every_map().items()
    yield from _of_spectra()
    yield from _of_training()
    yield from _of_precision()
    yield from _of_faults()
    yield from _of_tuning()
    yield from _of_measurements()


def _of_spectra() -> Figures:
    power, azimuth, elevation = test_spectra.some_map()
    names = ("MUSIC, true covariance", "MUSIC, sample covariance", "minimum variance", "a beam")
    places = ([0.1, -0.4], [0.2, 0.1])
    yield (
        "beam_maps of four",
        test_spectra.spectrum_plots.beam_maps(
            dict.fromkeys(names, power), azimuth, elevation, sources=places, peaks={names[0]: places}
        ),
    )
    yield "scene_figure", scene.scene_figure(SceneExplorer().analyse(test_scene.SETTINGS))
    history = test_map_history.new_history()
    test_map_history.train(history, test_map_history.new_network(), range(12))
    yield "map_history_figure", map_history.map_history_figure(history)
    scores = [
        Score(
            name, snr, sources, 8, 0.6 + 0.01 * snr, 0.8, 0.7 + 0.01 * snr, {"position": 0.1}, {"position": 1.1}, 0.9,
            1.0, 0.9, 3.0
        )
        for name in ("sparse", "sparse + polish", "MUSIC, sample", "MUSIC, learned", "sparse + Bayes")
        for snr in (0.0, 10.0, 20.0)
        for sources in (1, 2, 3)
    ]  # fmt: skip
    yield "recall_over_snr", benchmark.recall_over_snr(scores)
    nmse = {"learned": 0.2, "sample": 0.9, "sparse": 0.1}
    errors = [CovarianceError(snr, count, 8, snr, nmse, nmse) for snr in (0.0, 10.0, 20.0) for count in (1, 2, 3)]
    yield "covariance_nmse", benchmark.covariance_nmse(errors)
    yield (
        "learning_curves",
        benchmark.learning_curves({"wide": [(2048, 0.9), (10240, 0.5)], "deep": [(2048, 0.8)]}, 0.7),
    )


def _of_training() -> Figures:
    losses = [math.exp(-step / 30) + 0.05 * (step % 5) for step in range(1, 101)]
    losses[30] = math.nan
    strange = change(run(losses, 10, ema=0.4), 20, applied=False, reason="infinite gradient")
    lines = {"zero matrix": 1.0, "identity": 0.98, "best constant": 0.83}
    yield "loss_curves", training.loss_curves({"fp32, 1 × 64": strange}, lines=lines)
    yield (
        "loss_curves of eight",
        training.loss_curves({f"{n} × 8": run(losses, 10 + n) for n in range(1, 9)}, lines=lines),
    )
    yield "loss_curves, short", training.loss_curves({"one window": run([0.5], 1)}, log=False)
    yield "gradient_norms", training.gradient_norms(strange, clip_norm=1.0)
    counted = run(losses, 10)
    yield "epoch_counts", training.epoch_counts(counted)
    short = [test_training.end(n, n, test_training.Counters(4 * n, n, n, 0, n)) for n in (1, 2)]
    yield "epoch_counts, unequal", training.epoch_counts(short)
    config = OverfitConfig(scenes=64, epochs=2)
    checks = [*ladder(config, only=["splits", "oracle", "zero matrix"]), test_training.check(passed=False)]
    yield "ladder_figure", training.ladder_figure(checks)


def _of_precision() -> Figures:
    cells = [*test_precision.CELLS, test_precision.made("fp64", 8)]
    yield "precision_table", precision.precision_table(cells)
    odd = test_precision.made("fp16", 8, relative_error=1e-3, applied=False, loss_scale=65536.0)
    yield "window_curves", precision.window_curves(odd, cells[-1])
    yield "mode_curves", precision.mode_curves(cells, "pure bf16")
    yield "mode_curves, not run", precision.mode_curves(cells, "fp16")
    measured = [AccumulationCell(name, n, 2e-2, 7e-4, 3e-2, 0.5, True) for name in ("fp64", "bf16") for n in (1, 4)]
    measured[2] = AccumulationCell("bf16", 1, math.nan, 7e-4, 3e-2, 0.5, True)
    yield "accumulation_table", precision.accumulation_table(measured[:3])


def _of_faults() -> Figures:
    compared = ComparisonCache().compare_runs(catalogue.find_fault("scaler bypassed"), epochs=2)
    yield "loss_comparison", faults.loss_comparison({"adam": compared, "sgd": compared})
    yield "signals", faults.signals(compared)
    yield "weight_grids", faults.weight_grids(compared)
    yield "overview", faults.overview(compared)
    unseen = comparison.fault_report(catalogue.find_fault("conjugated steering"))
    yield "check_table", faults.check_table(unseen)
    small = StoryConfig(epochs=3, repair_epochs=3)
    fallen, correct = replay(small, "stage two"), replay(small)
    named = {"correct loop, K = 1": correct, "stage two": fallen}
    yield "first_epoch_counts", story.first_epoch_counts(named)
    yield "last_over_n", story.last_over_n(fallen)
    yield "warm_up", story.warm_up(named)
    yield "fix_scores", story.fix_scores([*repairs(small, ("split leakage",))])
    yield "replay_figure", story.replay_figure(fallen)
    yield "loop_steps", checkup.loop_steps({"my loop": _watched(4.0), "my other loop": _watched(1.0)})


def _watched(divisor: float) -> watch:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, accumulation_steps=4, every=1) as watched:
        for step in range(24):
            loss = model(torch.randn(8, 3)).square().mean()
            (loss / divisor).backward()
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    return watched


def _of_tuning() -> Figures:
    config, trials = test_tuning.CONFIG, test_tuning.TRIALS
    yield "history", tuning.history(trials, config)
    yield "curves", tuning.curves(trials, config)
    yield "slices", tuning.slices(trials, config)
    yield "slices of a search over all", tuning.slices(test_tuning.of_all(), TuningConfig())
    many = [test_tuning.trial(number, "complete", [2.0, 1.0 + number]) for number in range(10)]
    yield "importance", tuning.importance(many, config)
    yield "importance, too few", tuning.importance(trials, config)
    finals = [Rerun(name, seed, 0.9, peb) for name, peb in (("default", 1.6), ("best", 1.5)) for seed in range(5)]
    yield "reruns", tuning.reruns(finals, config)


def _of_measurements() -> Figures:
    drawn = [CASE.draw(1, 20.0, seed) for seed in (0, 1)]
    yield "element_order", measurement.element_order(drawn[0])
    left = residual(drawn[0], sparse(drawn[0], 1))
    yield "residual_panels", measurement.residual_panels({"fit": left, "the same": left})
    yield (
        "located_positions",
        measurement.located_positions([locate(one, 1) for one in drawn], true_positions=[[1.0, 0.1, 0.1]]),
    )
    scene_of_bound = test_spectra.some_scene()
    yield "bound_ellipses, no draws", bound_ellipses(scene_of_bound, test_spectra.rislab.crb(scene_of_bound))
