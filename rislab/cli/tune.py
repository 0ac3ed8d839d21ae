"""`rislab tune`: a hyper-parameter search on a loop that was checked first."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rislab.cli import common
from rislab.config import declarations
from rislab.errors import InputError, require
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.space import parse_space, read_space
from rislab.tuning.tuning_config import TuningConfig

if TYPE_CHECKING:
    from rislab.tuning.search import SearchProgress

# Fields of LearningConfig that every trial has, unless they are searched, are options but for these; --seed is that of
# the search.
OTHERS = ("separation", "free_space", "line_of_sight", "seed")
BASE = tuple(name for name in declarations(LearningConfig) if name not in OTHERS)
SEARCH = ("trials", "objective", "eval_scenes", "pruner", "seed")

EXAMPLES = (
    ("tune", "20 trials of short trainings"),
    ("tune --search lr=1e-4:1e-2:log micro_batch=8,16,32 --objective recall", "dimensions of your own"),
    ("tune --trials 200 --storage postgresql+psycopg://me@server/search", "the same on any number of machines"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Search the values with which a training localises best. The overfit ladder is run first. Ctrl-C, or any "
        "kill, and the same command goes on where it stopped; on another machine, with the same --storage and --study, "
        "it joins. Exit code 1 if the best has no better mean than the default when both are trained again."
    )
    parser.add_argument("--search", nargs="+", default=[], metavar="NAME=…", help="lr=1e-4:1e-2:log micro_batch=8,16")
    parser.add_argument("--space", metavar="FILE", help="YAML file with the dimensions, instead of --search")
    common.add_fields(parser, TuningConfig, SEARCH, optional=True)
    base = parser.add_argument_group("of every trial, if not searched; --config and -p set these")
    common.add_parameters(parser, LearningConfig, BASE, defaults=TuningConfig().base, group=base)
    common.add_run(parser, "runs/tuning", "of the study: stop and resume")
    parser.add_argument(
        "--storage", metavar="URL", default="",
        help="postgresql+psycopg://USER@HOST/DATABASE instead of a file in the folder; or in RISLAB_STORAGE",
    )  # fmt: skip
    parser.add_argument(
        "--study", metavar="NAME", default="tuning", help="its name in the storage (default %(default)s)"
    )
    common.add_integer(parser, "--workers", "processes of one thread (default: one a core)")
    parser.add_argument("--skip-ladder", action="store_true", help="do not run it; the record says so")
    parser.add_argument(
        "--confirm", type=common.to_integer, default=5, metavar="SEEDS",
        help="with which the top trials, then best and default, run again",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON at the end")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    require("tune", "tune", "optuna", "sqlalchemy")
    common.use_threads(1)

    from rislab.tuning.analysis import beats_default
    from rislab.tuning.search import run_search
    from rislab.tuning.study import BEST, trial_folder

    config = _config(options)
    say = common.printer(options.json)
    searched = ", ".join(config.space)
    say(f"{config.base.preset}: {config.trials} trials over {searched}; scored by {config.objective}")
    last: SearchProgress | None = None
    search = run_search(
        options.folder,
        config,
        storage=options.storage or os.environ.get("RISLAB_STORAGE", ""),
        name=options.study,
        workers=options.workers,
        skip_ladder=options.skip_ladder,
        confirm=options.confirm,
    )
    with closing(search) as progress:
        for fresh in progress:
            for line in _news(last, fresh, config):
                say(line)
            last = fresh
    assert last is not None and last.best is not None
    if options.json:
        plain = common.strict_json({**dataclasses.asdict(last), "config": config.to_dict()})
        print(json.dumps(plain, indent=2))
    say(f"best: trial {last.best.number}, {trial_folder(Path(options.folder), last.best.number)}")
    say(f"rislab train --config {shlex.quote(f'{options.folder}/{BEST}')}   trains it again")
    return 0 if not last.finals or beats_default(last.finals, config) else 1


def _config(options: argparse.Namespace) -> TuningConfig:
    plain = TuningConfig()
    base = common.configured(options, LearningConfig, BASE, plain.base)
    if options.search and options.space:
        raise InputError(f"search is given beside space {options.space!r}; allowed: one of them")
    searched = plain.space
    if options.space:
        searched = read_space(options.space)
    elif options.search:
        searched = parse_space(options.search)
    return TuningConfig(base=base, space=searched, **common.fields_given(options, TuningConfig, SEARCH))


def _news(before: SearchProgress | None, now: SearchProgress, config: TuningConfig) -> list[str]:
    """Lines about what is new since the last progress."""
    lines = []
    if before is None and now.ladder.get("skipped"):
        lines.append("overfit ladder skipped by --skip-ladder, and the record says so")
    checks = now.ladder.get("checks", []) if now.stage == "ladder" else []
    lines += checks[len(before.ladder.get("checks", [])) if before else 0 :]
    ended = {trial.number for trial in before.trials if trial.ended} if before else set()
    left = "" if now.left is None else f"{now.ended()}/{config.trials}, {_span(now.left)} left  "
    for trial in now.trials:
        if trial.ended and trial.number not in ended:
            lines.append(left + trial.line(config.objective))
    lines += [f"warning: {text}" for text in now.warnings if before is None or text not in before.warnings]
    if now.stage == "runoff" and before and before.stage != "runoff" and now.best:
        lines += [_saved(now, config), f"best of the search: {now.best.line(config.objective)}"]
    known = (*before.runoff, *before.finals) if before else ()
    for split, finals in (("validation", now.runoff), ("test", now.finals)):
        lines += [
            f"{final.name:<8} seed {final.seed}: recall {final.recall:.4f}, peb {final.peb:.4f} on the {split} split"
            for final in finals
            if final not in known
        ]
    if now.stage == "done" and now.finals:
        from rislab.tuning.analysis import verdict

        lines.append(verdict(now.finals, config))
    return lines


def _saved(now: SearchProgress, config: TuningConfig) -> str:
    """Epochs that pruning spared, counted from the records."""
    ended = [trial for trial in now.trials if trial.state in ("complete", "pruned")]
    trained = sum(trial.epochs for trial in ended)
    full = sum(int(trial.values.get("epochs", config.base.epochs)) for trial in ended)
    states = [trial.state for trial in now.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed"))
    return f"{counts}; {trained} of {full} epochs trained, {1 - trained / full:.0%} spared; {_span(now.seconds)}"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
