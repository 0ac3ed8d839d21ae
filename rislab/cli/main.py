"""The `rislab` command.

Exit code 0: fine; 1: something measured is wrong; 2: the input cannot be used; 130: interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rislab import files
from rislab.cli import checkup, faults, lab, sweep, train, tune
from rislab.errors import InputError

if TYPE_CHECKING:
    from rislab.sanity.overfit import CheckResult, OverfitConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What stands after -- belongs to the script of `rislab checkup`.
    own = given[: given.index("--")] if given[:1] == ["checkup"] and "--" in given else given
    options = parser.parse_args(own)
    options.arguments = given[len(own) + 1 :]
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return int(options.run(options))
    except InputError as error:
        print(f"rislab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"rislab: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone; nobody is left to be told.
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rislab", description="An interactive lab for one question: is this training loop telling the truth?"
    )
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    _add_overfit(commands.add_parser("overfit", help="climb the overfit ladder on simulated RIS scenes"))
    _add_report(commands.add_parser("report", help="run a notebook and write a self-contained HTML report"))
    _add_localise(commands.add_parser("localise", help="estimators side by side: recall, errors, ratio to the bound"))
    train.add(commands.add_parser("train", help="train a network on fresh scenes"), _whole, _number)
    search_help = "search hyper-parameters, after the overfit ladder, on one machine or many"
    tune.add(commands.add_parser("tune", help=search_help), _whole, _number)
    sweep_help = "reports of one notebook over a grid of parameters, compared on one page"
    sweep.add(commands.add_parser("sweep", help=sweep_help), _whole)
    lab.add_lab(commands.add_parser("lab", help="open JupyterLab on the notebooks, or on a working copy"), _whole)
    lab.add_app(commands.add_parser("app", help="serve a notebook as a page without code"), _whole)
    lab.add_grade(commands.add_parser("grade", help="grade the exercises of a class into a CSV"))
    faults.add(commands.add_parser("faults", help="the catalogue of faults, each an edit of the real loop"), _whole)
    checkup_help = "run a training script, watched, and name what is wrong with its loop"
    checkup.add(commands.add_parser("checkup", help=checkup_help), _whole, _number)
    info = commands.add_parser("info", help="versions, devices, threads, and whether widgets can render")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    return parser


def _add_overfit(parser: argparse.ArgumentParser) -> None:
    parser.description = "Climb the overfit ladder. Exit code 0 only if every check holds."
    parser.add_argument("--preset", default="classroom", help="classroom (6×6 RIS) or full (12×12)")
    parser.add_argument("--design", default="beams", help="of the network: beams or pursuit (default %(default)s)")
    parser.add_argument("--scenes", type=_whole, default=512, help="size of the training set (default %(default)s)")
    parser.add_argument("--epochs", type=_whole, default=30, help="passes over the whole set (default %(default)s)")
    parser.add_argument("--micro-batch", type=_whole, default=64, help="scenes in one forward (default %(default)s)")
    parser.add_argument(
        "--accumulation-steps", type=_whole, default=1, help="micro-batches a step (default %(default)s)"
    )
    parser.add_argument("--precision", default="fp32", help="fp64, fp32, bf16 or fp16 (default %(default)s)")
    parser.add_argument("--seed", type=_whole, default=0, help="of scenes, weights and order (default %(default)s)")
    parser.add_argument("--lr", type=_number, default=5e-3, help="peak rate of the head; a tenth for the backbone")
    parser.add_argument("--clip-norm", type=_number, default=1.0, help="largest gradient norm (default %(default)s)")
    parser.add_argument("--blend", type=_number, default=0.0, help="share β of the sample covariance in R_test")
    parser.add_argument("--curriculum", default="no-curriculum", help="no-curriculum or three-phase")
    parser.add_argument(
        "--validation", type=_whole, default=0, help="fresh scenes scored after each epoch (default %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=_whole, default=1, help="intra-op threads of torch (default %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="CHECK", help="climb these checks only")
    parser.add_argument("--run", dest="folder", metavar="FOLDER", help="run folder of the whole set: stop and resume")
    parser.add_argument("--matrix", action="store_true", help="add the precision × accumulation table")
    parser.add_argument("--log", action="store_true", help="print the training log of the whole set")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_overfit)


def _add_localise(parser: argparse.ArgumentParser) -> None:
    from rislab.music.benchmark import ESTIMATORS

    parser.description = (
        "Run estimators over a table of SNR × number of sources, all on the same scenes, and compare them with the "
        "Cramér–Rao bound. Exit code 1 if a check of the conventions badge fails."
    )
    parser.add_argument("--preset", default="full", help="classroom (6×6 RIS) or full (12×12, the default)")
    parser.add_argument("--snr", type=_number, nargs="+", default=[0.0, 10.0, 20.0], metavar="DB", help="SNRs in dB")
    parser.add_argument(
        "--sources", type=_whole, nargs="+", metavar="K", help="numbers of sources; those of the preset"
    )
    parser.add_argument("--scenes", type=_whole, default=100, help="scenes in each cell (default %(default)s)")
    parser.add_argument("--estimators", nargs="+", metavar="NAME", help=f"any of: {'; '.join(ESTIMATORS)}; all")
    parser.add_argument("--run", dest="folder", metavar="FOLDER", help="run folder of a network: adds its covariance")
    parser.add_argument(
        "--weights", metavar="FILE", help="of a network, or 'shipped': adds its covariance, with all that belongs to it"
    )
    parser.add_argument("--separation", type=_number, metavar="DEG", help="smallest angle between sources, in degrees")
    parser.add_argument("--shifts", action="store_true", help="on scenes that no network was trained on, one by one")
    parser.add_argument(
        "--set", dest="fields", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help="of the scenes"
    )
    parser.add_argument("--seed", type=_whole, help="of the scenes; 2024 with weights, which no training has, else 0")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=_whole, default=2, help="intra-op threads of torch (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_localise)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a notebook without a browser and write reports/out/NAME.html, which opens offline. "
        "Exit code 1 if a cell fails."
    )
    parser.add_argument("name", nargs="?", help="of a notebook without its number (overfit, …), or of a named set")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument("-f", dest="file", metavar="YAML", help="file with parameters")
    parser.add_argument("-o", "--out", default="reports/out", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--all", action="store_true", help="run every named set and write the gallery, index.html")
    parser.add_argument("--list", action="store_true", help="list the notebooks with their parameters, and the sets")
    parser.set_defaults(run=_report)


def _overfit(options: argparse.Namespace) -> int:
    import torch

    from rislab.errors import check_number
    from rislab.sanity import overfit
    from rislab.training import loop, records, run_folder

    check_number("threads", options.threads, 1, 1024, integer=True)
    torch.set_num_threads(options.threads)
    names = [field.name for field in dataclasses.fields(overfit.OverfitConfig)]
    config = overfit.OverfitConfig(**{name: getattr(options, name) for name in names})
    quiet = options.json
    began = time.perf_counter()
    if not quiet:
        print(_headline(config))
        for note in loop.config_warnings(config.training(), config.scenes):
            print(f"note: {note}")
    interrupted = _interrupted_later() if options.folder else lambda: False
    if options.folder and not quiet and (Path(options.folder) / run_folder.RECORDS).exists():
        earlier = run_folder.read_records(options.folder)
        print(f"note: {options.folder} goes on after step {earlier[-1].step if earlier else 0}")
    log: list[Any] = []

    def show(record: Any) -> None:
        if interrupted():
            raise KeyboardInterrupt(f"stopped after step {record.step}; the same command goes on with {options.folder}")
        log.append(record)
        if options.log and not quiet and isinstance(record, records.EpochRecord):
            print("\n".join(records.console(log)), flush=True)
            log.clear()

    checks: list[CheckResult] = []
    for check in overfit.ladder(config, only=options.only, folder=options.folder, on_record=show):
        checks.append(check)
        if not quiet:
            print(check.line(), flush=True)
        if interrupted():
            raise KeyboardInterrupt("stopped between two checks")
    cells = _matrix(config, quiet) if options.matrix else []
    batches = _one_batches(config, quiet) if options.matrix else []
    passed = all(part.passed for part in (*checks, *cells, *batches))
    seconds = time.perf_counter() - began
    if quiet:
        parts = {"checks": checks, "matrix": cells, "one_batch": batches}
        plain: dict[str, Any] = {name: [dataclasses.asdict(part) for part in found] for name, found in parts.items()}
        plain |= {"config": dataclasses.asdict(config), "passed": passed, "seconds": seconds}
        print(json.dumps(_strict(plain | _measured_on()), indent=2))
    else:
        held = sum(check.passed for check in checks)
        print(f"{held} of {len(checks)} checks hold; {seconds:.1f} s")
    return 0 if passed else 1


def _interrupted_later() -> Callable[[], bool]:
    """Turn the first Ctrl-C into a flag, so that training stops at a step boundary; a second one interrupts at once."""
    asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    return lambda: asked


def _matrix(config: OverfitConfig, quiet: bool) -> list[Any]:
    from rislab.sanity import overfit

    if not quiet:
        print("\ngradient of 64 scenes, accumulated against one batch in the same precision")
        print("     precision  steps  relative L2    |α − 1|  L2 against fp64  ms a step")
    cells = []
    for cell in overfit.matrix(config):
        cells.append(cell)
        if not quiet:
            print(
                f"{'ok  ' if cell.passed else 'FAIL'} {cell.precision:<10} {cell.accumulation_steps:>5} "
                f"{cell.relative_error:>12.1e} {cell.alpha_error:>10.1e} {cell.fp64_error:>16.1e} "
                f"{1e3 * cell.seconds_per_step:>10.1f}",
                flush=True,
            )
    return cells


def _one_batches(config: OverfitConfig, quiet: bool) -> list[CheckResult]:
    """The check "one batch" in every precision."""
    from rislab.sanity import overfit
    from rislab.training.config import PRECISIONS

    if not quiet:
        print()
    found = []
    for precision in PRECISIONS:
        for check in overfit.ladder(dataclasses.replace(config, precision=precision), only=["one batch"]):
            found.append(dataclasses.replace(check, name=f"one batch {precision}"))
            if not quiet:
                print(found[-1].line(), flush=True)
    return found


def _origin() -> str:
    """Versions, commit and machine in one line."""
    from rislab import provenance

    found = provenance.versions(("rislab", "torch"))
    return f"rislab {found['rislab']} ({provenance.commit()}), torch {found['torch']}, {provenance.processor()}"


def _measured_on() -> dict[str, Any]:
    """The same for JSON."""
    from rislab import provenance

    return {"versions": provenance.versions(), "commit": provenance.commit(), "machine": provenance.processor()}


def _headline(config: OverfitConfig) -> str:

    return (
        f"{_origin()}\n"
        f"{config.preset}: {config.scenes} scenes, {config.epochs} epochs, micro-batch {config.micro_batch}, "
        f"{config.accumulation_steps} accumulation steps, {config.precision}, lr {config.lr:g}, seed {config.seed}, "
        f"{config.device}"
    )


def _localise(options: argparse.Namespace) -> int:
    import torch

    from rislab.data.scenes import SceneConfig
    from rislab.errors import check_choice, check_number
    from rislab.model import pretrained
    from rislab.music import benchmark
    from rislab.sanity import conventions
    from rislab.training import run_folder
    from rislab.training.streaming import LearningConfig

    check_number("threads", options.threads, 1, 1024, integer=True)
    torch.set_num_threads(options.threads)
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
    known = dict(benchmark.ESTIMATORS)
    usual = benchmark.BESIDE if options.weights else benchmark.DEFAULT
    names = list(known) if options.estimators == ["all"] else options.estimators or list(usual)
    for name in names:
        check_choice("estimators", name, known)
    chosen = {name: known[name] for name in names} | (benchmark.learned(model) if model is not None else {})
    low, high = config.sources
    cells: dict[str, Any] = {
        "snr_db": options.snr,
        "sources": options.sources or list(range(low, high + 1)),
        "scenes": options.scenes,
        "seed": seed,
    }
    badge = conventions.check_conventions(config, seed=seed)
    shifts = benchmark.SHIFTS if options.shifts else {"": {}}
    told = {name: SceneConfig.from_dict({**config.to_dict(), **changes}) for name, changes in shifts.items()}
    say = (lambda *lines: None) if options.json else (lambda *lines: print(*lines, flush=True))
    say(_origin())
    say(f"{options.preset}: {options.scenes} scenes a cell, seed {seed}, {options.threads} threads")
    say(badge.headline() if badge.passed else badge)
    near, scores, counts = [], [], []
    for shift, area in told.items():
        say(f"\n{shift}" if shift else "")
        if model is not None:
            say("NMSE of covariances, mean over scenes\n" + benchmark.Distance.header(benchmark.COVARIANCES))
            for distance in benchmark.distances(model, area, **cells):
                near.append(dataclasses.asdict(distance) | {"shift": shift})
                say(distance.line())
        say(benchmark.HEADER)
        for score in benchmark.compare(area, **cells, estimators=chosen, device=options.device):
            scores.append(dataclasses.asdict(score) | {"shift": shift})
            say(score.line())
    if options.weights and model is not None and not options.shifts:
        say("\nnumber of sources right, share of scenes\n    dB  K    learned  criterion")
        for count in benchmark.counting(model, config, **{**cells, "scenes": min(options.scenes, 50)}):
            counts.append(dataclasses.asdict(count))
            say(count.line())
    if options.json:
        plain = {"scores": scores, "covariances": near, "counting": counts, "config": config.to_dict(), "seed": seed}
        plain |= {"conventions": [dataclasses.asdict(check) for check in badge.checks]}
        print(json.dumps(_strict(plain | _measured_on()), indent=2))
    return 0 if badge.passed else 1


def _yaml(name: str, text: str) -> Any:
    try:
        return files.parse_yaml(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; allowed: a number, text, or a list such as [0.5, 3]") from None


def _report(options: argparse.Namespace) -> int:
    from rislab.reports import gallery, notebooks

    if options.all:
        if options.name or options.parameters or options.file or options.list:
            raise InputError("--all runs every named set as its file has it; allowed with it: --out alone")
        return _gallery(Path(options.out))
    if options.list or options.name is None:
        return _list_reports()
    chosen = gallery.named(options.name)
    values: dict[str, Any] = {}
    if options.file is not None:
        values |= notebooks.read_values(chosen.path, Path(options.file))
    values |= notebooks.parse_values(chosen.path, dict(options.parameters))
    report = chosen.run(values, Path(options.out))
    if report.closing:
        print(report.closing)
    print(f"{report.html}  ({report.seconds:.0f} s)")
    if not report.ok:
        print(f"rislab: {report.error}", file=sys.stderr)
        return 1
    return 0


def _gallery(out: Path) -> int:
    """All named sets, with a line on stderr as each begins and ends; those that failed are named again at the end."""
    from rislab.reports import gallery

    sets = gallery.available()
    begun = 0

    def begin(chosen: gallery.NamedSet) -> None:
        nonlocal begun
        begun += 1
        print(f"[{begun}/{len(sets)}] {chosen.name}: {chosen.title}", file=sys.stderr, flush=True)

    failed = []
    for report in gallery.build(sets, out, on_begin=begin):
        said = f"[{begun}/{len(sets)}] {report.name} {report.verdict} in {report.seconds:.0f} s"
        print(said, file=sys.stderr, flush=True)
        failed += [report] if not report.ok else []
    print(f"{out / gallery.INDEX}  ({len(sets) - len(failed)} of {len(sets)} reports passed)")
    for report in failed:
        print(f"rislab: {report.name}: {report.error}", file=sys.stderr)
    return 1 if failed else 0


def _list_reports() -> int:
    from rislab.reports import gallery, notebooks

    for name, path in notebooks.available().items():
        print(f"{name:<12} {path.name}")
        for parameter in notebooks.parameters(path).values():
            print(f"    {parameter.name} = {parameter.default!r}  {parameter.comment}")
    print("\nnamed sets, each with values of its own; --all runs them all")
    for chosen in gallery.available() if gallery.found() else []:
        changed = ", ".join(f"{name} = {value!r}" for name, (value, _) in chosen.changed.items())
        print(f"{chosen.name:<22} {chosen.title}\n    {chosen.path.name}, {changed or 'defaults'}")
    return 0


def _info(options: argparse.Namespace) -> int:
    import torch

    from rislab import provenance
    from rislab.panels.api import widgets

    found: dict[str, Any] = dict(provenance.versions())
    found["torch"] = torch.__version__  # with its build (+cpu, +cu130), which some wheels leave out of their metadata
    found["commit"] = provenance.commit()
    found["machine"] = provenance.processor()
    found["threads"] = torch.get_num_threads()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found["devices"] = ", ".join(["cpu", *(f"cuda:{index} {name}" for index, name in enumerate(gpus))])
    found["widgets"] = widgets()
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:<12} {value}" for name, value in found.items()))
    return 0


def _strict(value: Any) -> Any:
    """The value with NaN and infinity as the strings "nan" and "inf", which any JSON reader takes."""
    if isinstance(value, dict):
        return {name: _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number") from None


if __name__ == "__main__":
    sys.exit(main())
