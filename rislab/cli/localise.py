"""`rislab localise`: estimators side by side, and what the bound allows."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rislab import files
from rislab.cli import common, own_data
from rislab.data.scene_config import SceneConfig
from rislab.errors import InputError, check_choice
from rislab.music.estimator_names import BASELINES, DEFAULT_ESTIMATORS, ESTIMATOR_NAMES
from rislab.training.learning_config import LearningConfig

if TYPE_CHECKING:
    from rislab.model.network import CovarianceNet
    from rislab.music import benchmark

SCORE_HEADER = (
    "                                            bound   median error of hits        error / √CRB, RMS\n"
    "estimator                   dB  K  recall   allows  azim. °  elev. °  range m   azim.  elev.  range ms/scene"
)
ORDER_HEADER = "    dB  K    learned  criterion"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Run estimators over a table of SNR × number of sources, all on the same scenes, and compare them with the "
        "Cramér–Rao bound. Exit code 1 if a check of the conventions fails. With --data: the sources of a measurement "
        "of your own; exit code 1 if the model does not explain it."
    )
    own_data.add_options(parser)
    common.add_fields(parser, LearningConfig, ("preset", "device"))
    parser.add_argument(
        "--snr", type=common.to_number, nargs="+", default=[0.0, 10.0, 20.0], metavar="DB", help="SNRs in dB"
    )
    parser.add_argument(
        "--sources", type=common.to_integer, nargs="+", metavar="K", help="numbers of sources; those of the preset"
    )
    parser.add_argument(
        "--scenes", type=common.to_integer, default=100, metavar="N", help="scenes in each cell (default %(default)s)"
    )
    names = "; ".join(ESTIMATOR_NAMES)
    parser.add_argument("--estimators", nargs="+", metavar="NAME", help=f"any of: {names}; all")
    parser.add_argument("--run", dest="folder", metavar="FOLDER", help="run folder of a network: adds its covariance")
    parser.add_argument(
        "--weights", metavar="FILE", help="of a network, or 'shipped': adds its covariance, with all that belongs to it"
    )
    parser.add_argument(
        "--separation", type=common.to_number, metavar="DEG", help="smallest angle between sources, in degrees"
    )
    parser.add_argument("--shifts", action="store_true", help="on scenes that no network was trained on, one by one")
    parser.add_argument(
        "--set", dest="fields", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help="of the scenes"
    )
    parser.add_argument(
        "--seed",
        type=common.to_integer,
        metavar="N",
        help="of the scenes; 2024 with weights, which no training has, else 0",
    )
    common.add_threads(parser, 2)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    if options.template:
        return own_data.run_template(options.template)
    common.use_threads(options.threads)
    if options.data:
        return own_data.run_data(options.data, options.sources, options.json, centred=options.centred)

    from rislab.data.measurement import identifiable
    from rislab.music import benchmark
    from rislab.sanity import conventions

    model, config, seed = _model_and_scenes(options)
    config, hidden = identifiable(config)
    cells = {
        "snr_db": options.snr,
        "sources": options.sources or list(range(config.sources[0], config.sources[1] + 1)),
        "scenes": options.scenes,
        "seed": seed,
    }
    estimators = _estimators(options, model)
    report = conventions.check_conventions(config, seed=seed)
    say = common.printer(options.json)
    say(common.origin())
    say(f"{options.preset}: {options.scenes} scenes a cell, seed {seed}, {options.threads} threads")
    say(report.headline() if report.passed else report)
    if hidden:
        say(hidden)
    tables: dict[str, list[dict[str, Any]]] = {"scores": [], "covariances": [], "counting": []}
    for shift, changes in (benchmark.SHIFTS if options.shifts else {"": {}}).items():
        area = SceneConfig.from_dict({**config.to_dict(), **changes})
        say(f"\n{shift}" if shift else "")
        if model is not None:
            say("NMSE of covariances, mean over scenes\n" + covariance_header(benchmark.COVARIANCES))
            errors = benchmark.covariance_errors(model, area, **cells)
            tables["covariances"] += _rows(errors, covariance_line, say, shift=shift)
        say(SCORE_HEADER)
        scores = benchmark.compare(area, **cells, estimators=estimators, device=options.device)
        tables["scores"] += _rows(scores, score_line, say, shift=shift)
    if options.weights and model is not None and not options.shifts:
        say(f"\nnumber of sources right, share of scenes\n{ORDER_HEADER}")
        counted = benchmark.order_accuracy(model, config, **{**cells, "scenes": min(options.scenes, 50)})
        tables["counting"] += _rows(counted, order_line, say)
    if options.json:
        plain = {**tables, "config": config.to_dict(), "seed": seed}
        plain |= {"conventions": [dataclasses.asdict(check) for check in report.checks]}
        print(json.dumps(common.strict_json(plain | common.measured_on()), indent=2))
    return 0 if report.passed else 1


def _model_and_scenes(options: argparse.Namespace) -> tuple[CovarianceNet | None, SceneConfig, int]:
    """The network whose covariance is compared, the scenes, and their seed."""
    from rislab.model import pretrained
    from rislab.training import run_folder

    if options.folder and options.weights:
        raise InputError(f"weights is {options.weights!r} beside a run folder; allowed: one of them")
    model, trained_on = run_folder.load_model(options.folder) if options.folder else (None, None)
    fields = {name: _yaml(name, text) for name, text in options.fields}
    seed = options.seed if options.seed is not None else 0
    if options.weights:
        model, trained_on, _ = pretrained.load(options.weights, options.preset)
        seed = LearningConfig.EVALUATION if options.seed is None else options.seed
        fields.setdefault("separation", math.radians(10))
    if options.separation is not None:
        fields["separation"] = math.radians(options.separation)
    config = SceneConfig.preset(options.preset, **fields)
    if trained_on is not None and (trained_on.ris_shape, trained_on.antennas) != (config.ris_shape, config.antennas):
        source = options.folder or options.weights
        raise InputError(f"preset is {options.preset!r}; allowed: the surface and antennas that {source} knows")
    return model, config, seed


def _estimators(options: argparse.Namespace, model: CovarianceNet | None) -> Mapping[str, benchmark.Estimator]:
    from rislab.music import benchmark

    usual = BASELINES if options.weights else DEFAULT_ESTIMATORS
    names = ESTIMATOR_NAMES if options.estimators == ["all"] else options.estimators or usual
    for name in names:
        check_choice("estimators", name, ESTIMATOR_NAMES)
    learned = benchmark.learned_estimators(model) if model is not None else {}
    return {name: benchmark.ESTIMATORS[name] for name in names} | learned


def score_line(score: benchmark.Score) -> str:
    """A row of the table of estimators, under SCORE_HEADER."""
    median, ratio = score.median, score.ratio
    return (
        f"{score.estimator:<24} {score.snr_db:>6.4g} {score.sources:>2} {score.recall:>7.3f} {score.allowed:>8.3f} "
        f"{median['azimuth']:>8.3f} {median['elevation']:>8.3f} {median['range']:>8.3f}  "
        f"{ratio['azimuth']:>6.2f} {ratio['elevation']:>6.2f} {ratio['range']:>6.2f} {score.milliseconds:>8.2f}"
    )


def covariance_header(names: Sequence[str]) -> str:
    """Names of the columns of covariance_line()."""
    return f"{'dB':>6} {'real':>6} {'K':>2} " + " ".join(f"{name:>10}" for name in names)


def covariance_line(error: benchmark.CovarianceError) -> str:
    """A row of the table of covariances, under covariance_header()."""
    columns = " ".join(f"{value:>10.4f}" for value in error.nmse.values())
    return f"{error.snr_db:>6.4g} {error.realised_snr_db:>6.2f} {error.sources:>2} {columns}"


def order_line(accuracy: benchmark.OrderAccuracy) -> str:
    """A row of the table of numbers of sources, under ORDER_HEADER."""
    return f"{accuracy.snr_db:>6.4g} {accuracy.sources:>2} {accuracy.learned:>10.3f} {accuracy.criterion:>10.3f}"


def _rows(
    results: Iterable[Any], line: Callable[[Any], str], say: Callable[..., None], **beside: str
) -> list[dict[str, Any]]:
    """Print each result as it comes; returns all as plain mappings."""
    rows = []
    for result in results:
        rows.append(dataclasses.asdict(result) | beside)
        say(line(result))
    return rows


def _yaml(name: str, text: str) -> Any:
    try:
        return files.parse_yaml(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; allowed: a number, text, or a list such as [0.5, 3]") from None
