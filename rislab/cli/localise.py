"""`rislab localise`: estimators side by side, and what the bound allows."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from rislab import files
from rislab.cli import common
from rislab.data.scenes import SceneConfig
from rislab.errors import InputError, check_choice
from rislab.model import pretrained
from rislab.model.network import CovarianceNet
from rislab.music import benchmark
from rislab.sanity import conventions
from rislab.training import run_folder
from rislab.training.streaming import LearningConfig


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Run estimators over a table of SNR × number of sources, all on the same scenes, and compare them with the "
        "Cramér–Rao bound. Exit code 1 if a check of the conventions fails."
    )
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
    names = "; ".join(benchmark.ESTIMATORS)
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
    common.use_threads(options.threads)
    model, config, seed = _model_and_scenes(options)
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
    tables: dict[str, list[dict[str, Any]]] = {"scores": [], "covariances": [], "counting": []}
    for shift, changes in (benchmark.SHIFTS if options.shifts else {"": {}}).items():
        area = SceneConfig.from_dict({**config.to_dict(), **changes})
        say(f"\n{shift}" if shift else "")
        if model is not None:
            say("NMSE of covariances, mean over scenes\n" + benchmark.CovarianceError.header(benchmark.COVARIANCES))
            tables["covariances"] += _rows(benchmark.covariance_errors(model, area, **cells), say, shift=shift)
        say(benchmark.HEADER)
        scores = benchmark.compare(area, **cells, estimators=estimators, device=options.device)
        tables["scores"] += _rows(scores, say, shift=shift)
    if options.weights and model is not None and not options.shifts:
        say("\nnumber of sources right, share of scenes\n    dB  K    learned  criterion")
        tables["counting"] += _rows(
            benchmark.order_accuracy(model, config, **{**cells, "scenes": min(options.scenes, 50)}), say
        )
    if options.json:
        plain = {**tables, "config": config.to_dict(), "seed": seed}
        plain |= {"conventions": [dataclasses.asdict(check) for check in report.checks]}
        print(json.dumps(common.strict_json(plain | common.measured_on()), indent=2))
    return 0 if report.passed else 1


def _model_and_scenes(options: argparse.Namespace) -> tuple[CovarianceNet | None, SceneConfig, int]:
    """The network whose covariance is compared, the scenes, and their seed."""
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
    known = dict(benchmark.ESTIMATORS)
    usual = benchmark.BASELINES if options.weights else benchmark.DEFAULT_ESTIMATORS
    names = list(known) if options.estimators == ["all"] else options.estimators or list(usual)
    for name in names:
        check_choice("estimators", name, known)
    return {name: known[name] for name in names} | (benchmark.learned_estimators(model) if model is not None else {})


def _rows(results: Any, say: Callable[..., None], **beside: str) -> list[dict[str, Any]]:
    """Print each result as it comes; returns all as plain mappings."""
    rows = []
    for result in results:
        rows.append(dataclasses.asdict(result) | beside)
        say(result.line())
    return rows


def _yaml(name: str, text: str) -> Any:
    try:
        return files.parse_yaml(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; allowed: a number, text, or a list such as [0.5, 3]") from None
