"""`rislab localise`: estimators side by side, and what the bound allows."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rislab import files
from rislab.cli import common, own_data
from rislab.cli.terminal import Column, Progress, Table
from rislab.data.scene_config import PRESETS, SceneConfig
from rislab.errors import InputError, check_choice, check_device, check_number
from rislab.music.estimator_names import BASELINES, DEFAULT_ESTIMATORS, ESTIMATOR_NAMES
from rislab.training.streaming_config import LearningConfig

if TYPE_CHECKING:
    from rislab.model.network import CovarianceNet
    from rislab.music import benchmark

CELL = (Column("dB", 4, ".4g"), Column("K", 2))
SCORES = (
    Column("estimator", 24, left=True), *CELL, Column("recall", 6, ".3f"), Column("bound\nallows", 6, ".3f"),
    Column("median\nazim. °", 7, ".3f"), Column("error\nelev.°", 6, ".3f"), Column("of hits\nrange m", 7, ".3f"),
    Column("error\nazim.", 5, ".2f"), Column("/√CRB\nelev.", 5, ".2f"), Column("RMS\nrange", 5, ".2f"),
    Column("left/\nnoise", 5, ".2f"), Column("ms/\nscene", 6, ".2f"),
)  # fmt: skip
CELLS = (*CELL, Column("counted", 8, ".3f"), Column("range cut", 10, ".2f"), Column("Bayes finds", 11, ".3f"))
ORDERS = (*CELL, Column("learned", 10, ".3f"), Column("criterion", 10, ".3f"))
ABSENT = "–"
ABSENT_MEANS = f"{ABSENT}: of no hit, known before, or not to be known"
EXAMPLES = (
    ("localise --data mine.npz", "positions and standard errors from a measurement of your own"),
    ("localise --template mine.npz", "an example of such a file"),
    ("localise --snr 10 --sources 2 --estimators all", "one cell of the table, every estimator"),
    ("localise --preset full --weights shipped", "the learned covariance beside them"),
    ("localise -p rician_factor 10 --json", "other scenes, for programs"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Run estimators over a table of SNR × number of sources, all on the same scenes, and compare them with the "
        "Cramér–Rao bound. Exit code 1 if a check of the conventions fails. With --data: the sources of a measurement "
        "of your own; exit code 1 if the model does not explain it."
    )
    own_data.add_options(parser)
    common.add_config_file(parser)
    common.add_fields(parser, LearningConfig, ("preset", "device"), optional=True)
    parser.add_argument(
        "--snr", type=common.to_number, nargs="+", default=[0.0, 10.0, 20.0], metavar="DB", help="SNRs in dB"
    )
    parser.add_argument(
        "--sources", type=common.to_integer, nargs="+", metavar="K", help="numbers of sources; those of the preset"
    )
    common.add_integer(parser, "--scenes", "scenes in each cell (default %(default)s)", 100)
    names = "; ".join(ESTIMATOR_NAMES)
    parser.add_argument("--estimators", nargs="+", metavar="NAME", help=f"any of: {names}; all")
    common.add_run(parser, None, "of a trained network: adds its covariance")
    parser.add_argument(
        "--weights", metavar="FILE", help="of a network, or 'shipped': adds its covariance, with all that belongs to it"
    )
    parser.add_argument(
        "--separation", type=common.to_number, metavar="DEG", help="smallest angle between sources, in degrees"
    )
    parser.add_argument(
        "--tolerances", type=common.to_number, nargs=3, metavar=("DEG", "DEG", "M"), help="of hits (default 5 5 1)"
    )
    parser.add_argument("--shifts", action="store_true", help="on scenes that no network was trained on, one by one")
    common.add_parameter(
        parser, LearningConfig, ("preset", "device"), others="fields",
        help="set preset, device or a field of the scenes, such as rician_factor",
    )  # fmt: skip
    common.add_integer(parser, "--seed", "of the scenes; 2024 with weights, which no training has, else 0")
    common.add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    parser = argparse.ArgumentParser()
    add(parser)
    own_data.refuse_idle_options(options, parser)
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
    tolerances = _tolerances(options, config)
    estimators = _estimators(options, model, tolerances)
    report = conventions.check_conventions(config, seed=seed)
    say, progress = common.printer(options.json), Progress(options.json)
    say(common.origin())
    say(f"{options.preset}: {options.scenes} scenes a cell, seed {seed}, {options.threads} threads")
    say(report.headline() if report.passed else report)
    if hidden:
        say(hidden)
    tables: dict[str, list[dict[str, Any]]] = {"scores": [], "covariances": [], "counting": []}
    for shift, changes in (benchmark.SHIFTS if options.shifts else {"": {}}).items():
        area = config.changed(**changes)
        say(f"\n{shift}" if shift else "")
        if model is not None:
            say("NMSE of covariances, mean over scenes\n" + covariance_header(benchmark.COVARIANCES))
            errors = benchmark.covariance_errors(model, area, **cells)
            tables["covariances"] += _rows(errors, covariance_line, say, progress, shift=shift)
        say(conditions(area, tolerances))
        say(score_header())
        scores = benchmark.compare(area, **cells, estimators=estimators, tolerances=tolerances, device=options.device)
        rows = _rows(scores, score_line, say, progress, shift=shift)
        say(cell_table(rows))
        tables["scores"] += rows
    if options.weights and model is not None and not options.shifts:
        say(f"\nnumber of sources right, share of scenes\n{order_header()}")
        counted = benchmark.order_accuracy(model, config, **{**cells, "scenes": min(options.scenes, 50)})
        tables["counting"] += _rows(counted, order_line, say, progress)
    if options.json:
        plain = {**tables, "config": config.to_dict(), "seed": seed}
        plain |= {"conventions": [dataclasses.asdict(check) for check in report.checks]}
        common.print_json(plain)
    return 0 if report.passed else 1


def _model_and_scenes(options: argparse.Namespace) -> tuple[CovarianceNet | None, SceneConfig, int]:
    """The network whose covariance is compared, the scenes, and their seed; puts preset and device into the options."""
    from rislab.model import pretrained
    from rislab.training import run_folder

    if options.folder and options.weights:
        raise InputError(f"weights is {options.weights!r} beside a run folder; allowed: one of them")
    fields = files.read_mapping(options.config, "holds no mapping; allowed: fields of scenes") if options.config else {}
    fields |= {name: _yaml(name, text) for name, text in options.fields}
    fields |= common.fields_given(options, LearningConfig, ("preset", "device"))
    named, options.device = fields.pop("preset", None), fields.pop("device", "cpu")
    check_device(options.device)
    seed = options.seed if options.seed is not None else 0
    model, trained_on = run_folder.load_model(options.folder) if options.folder else (None, None)
    if options.weights:
        model, trained_on, _ = pretrained.load(options.weights, named or LearningConfig().preset)
        seed = LearningConfig.EVALUATION if options.seed is None else options.seed
        fields.setdefault("separation", math.radians(10))
    if options.separation is not None:
        fields["separation"] = math.radians(options.separation)
    # The preset that a network was trained on, if there is one.
    fitting = (name for name in PRESETS if trained_on and _sizes(SceneConfig.preset(name)) == _sizes(trained_on))
    options.preset = named or next(fitting, LearningConfig().preset)
    config = SceneConfig.preset(options.preset, **fields)
    if trained_on is not None and _sizes(trained_on) != _sizes(config):
        source = options.folder or options.weights
        raise InputError(f"preset is {options.preset!r}; allowed: the surface and antennas that {source} was made for")
    return model, config, seed


def _tolerances(options: argparse.Namespace, config: SceneConfig) -> tuple[float, float, float]:
    """Those of the scenes, or as they were given."""
    from rislab.music.metrics import tolerances_of

    if options.tolerances is None:
        return tolerances_of(config)
    for value in options.tolerances:
        check_number("tolerances", value, 0.0, exclusive=True)
    azimuth, elevation, far = options.tolerances
    return math.radians(azimuth), math.radians(elevation), math.inf if config.wavefront == "planar" else far


def _sizes(config: SceneConfig) -> tuple[tuple[int, int], int]:
    return config.ris_shape, config.antennas


def _estimators(
    options: argparse.Namespace, model: CovarianceNet | None, tolerances: tuple[float, float, float]
) -> Mapping[str, benchmark.Estimator]:
    from rislab.music import benchmark

    usual = BASELINES if options.weights else DEFAULT_ESTIMATORS
    names = ESTIMATOR_NAMES if options.estimators == ["all"] else options.estimators or usual
    for name in names:
        check_choice("estimators", name, ESTIMATOR_NAMES)
    learned = benchmark.learned_estimators(model) if model is not None else {}
    return {name: benchmark.make_estimator(name, tolerances=tolerances) for name in names} | learned


def score_header() -> str:
    """Titles of the columns of score_line()."""
    return Table(SCORES).head()


def score_line(score: benchmark.Score) -> str:
    """A row of the table of estimators."""
    return Table(SCORES, absent=ABSENT).row(*_values(score))


def _values(score: benchmark.Score) -> list[Any]:
    error, ratio = ([each[name] for name in ("azimuth", "elevation", "range")] for each in (score.median, score.ratio))
    where = (score.estimator, score.snr_db, score.sources, score.recall, score.allowed)
    return [*where, *error, *ratio, score.residual, score.milliseconds]


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """The table of estimators, for a notebook."""

    scores: Sequence[benchmark.Score]

    def __repr__(self) -> str:
        return "\n".join([score_header(), *map(score_line, self.scores)])

    def _repr_html_(self) -> str:
        return Table(SCORES, absent=ABSENT).page(map(_values, self.scores), "estimators beside the bound")


def cell_table(scores: Iterable[Mapping[str, Any]]) -> str:
    """What all estimators of a cell share: how often K is counted, and how far hits cut the errors of ranges."""
    table = Table(CELLS, absent=ABSENT)
    names = ("snr_db", "sources", "counted", "truncation", "bayes")
    rows = dict.fromkeys(tuple(score[name] for name in names) for score in scores)
    text = (
        "counted: share of scenes in which model_order() has K right, which the estimators are given\n"
        "range cut: ratio that normal errors would have in range, of which only the hits count\n"
        "Bayes finds: recall of the Bayesian estimate below 10 dB, where the bound says little of it"
    )
    return "\n".join(["", text, table.head(), *(table.row(*row) for row in rows)])


def conditions(config: SceneConfig, tolerances: tuple[float, float, float]) -> str:
    """What the numbers of the tables rest on, in a few lines."""
    azimuth, elevation, far = tolerances
    apart = f"at least {math.degrees(config.separation):.3g}° apart" if config.separation else "at any distance"
    metres = "any range" if math.isinf(far) else f"{far:g} m"
    kind = "stochastic" if config.symbols == "varying" else "deterministic"
    allowed = kind if config.antennas == 1 else "deterministic"
    return (
        f"{config.power_law} powers, sources {apart}, {config.symbols} symbols, κ = {config.rician_factor:g}\n"
        "SNR: mean signal over noise power at the antennas, all sources together\n"
        f"hits: within {math.degrees(azimuth):g}° / {math.degrees(elevation):g}° / {metres}; "
        f"bound allows: recall by the {allowed} bound\n"
        f"error/√CRB: of hits, by the {kind} bound; {ABSENT_MEANS}\n"
        "left/noise: what the estimate leaves of the snapshots, over what noise would leave"
    )


def covariance_header(names: Iterable[str]) -> str:
    """Titles of the columns of covariance_line()."""
    return _covariance_table(names).head()


def covariance_line(error: benchmark.CovarianceError) -> str:
    """A row of the table of covariances."""
    return _covariance_table(error.nmse).row(error.snr_db, error.realised_snr_db, error.sources, *error.nmse.values())


def _covariance_table(names: Iterable[str]) -> Table:
    decibels, count = CELL
    columns = (decibels, Column("real", 6, ".2f"), count, *(Column(name, max(9, len(name)), ".4f") for name in names))
    return Table(columns)


def order_header() -> str:
    """Titles of the columns of order_line()."""
    return Table(ORDERS).head()


def order_line(accuracy: benchmark.OrderAccuracy) -> str:
    """A row of the table of numbers of sources."""
    return Table(ORDERS).row(accuracy.snr_db, accuracy.sources, accuracy.learned, accuracy.criterion)


def _rows(
    results: Iterable[Any], line: Callable[[Any], str], say: Callable[..., None], progress: Progress, **beside: str
) -> list[dict[str, Any]]:
    """Print each result as it comes; returns all as plain mappings."""
    rows: list[dict[str, Any]] = []
    progress.show("…")
    for result in results:
        rows.append(dataclasses.asdict(result) | beside)
        progress.clear()
        say(line(result))
        progress.show(f"{len(rows)} rows …")
    progress.clear()
    return rows


def _yaml(name: str, text: str) -> Any:
    try:
        return files.parse_yaml(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; allowed: a number, text, or a list such as [0.5, 3]") from None
