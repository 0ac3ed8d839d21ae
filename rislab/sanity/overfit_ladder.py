"""The overfit ladder: a network that cannot memorise is broken, or its loop is; each check tells which, with a number.

Checks are ordered so that the first red one is the one to read. Each runs the code that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from rislab.data.scenes import SceneBatch
from rislab.errors import check_choice
from rislab.sanity import ladder_checks
from rislab.sanity.checks import CheckResult, Verdict, run_check
from rislab.sanity.overfit import FullTraining
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.records import Record


@dataclass(frozen=True)
class _Subject:
    """What the checks look at; `scenes` are the data on the device, in the precision of the training."""

    config: OverfitConfig
    data: SceneBatch
    scenes: SceneBatch
    full: FullTraining


# Name → check, in the order in which they are climbed.
CHECKS: dict[str, Callable[[_Subject], Verdict]] = {
    "splits": lambda on: ladder_checks.check_splits(on.data, on.config.seed),
    "oracle": lambda on: ladder_checks.check_oracle(on.scenes, on.config.precision),
    "oracle blend": lambda on: ladder_checks.check_oracle_blend(
        on.scenes, max(on.config.blend, 0.2), on.config.precision
    ),
    "zero matrix": lambda on: ladder_checks.check_zero(on.scenes, on.config.precision),
    "identity": lambda on: ladder_checks.check_identity(on.scenes, on.config.precision),
    "constant": lambda on: ladder_checks.check_constant(on.scenes),
    "untrained": lambda on: ladder_checks.check_untrained(on.config, on.scenes),
    "gradient coverage": lambda on: ladder_checks.check_coverage(on.config, on.data),
    "batch independence": lambda on: ladder_checks.check_batch_independence(on.config, on.scenes),
    "input dependence": lambda on: ladder_checks.check_input_dependence(on.config, on.scenes),
    "one scene": lambda on: ladder_checks.check_one_scene(on.config, on.data),
    "one batch": lambda on: ladder_checks.check_one_batch(on.config, on.data),
    "accumulation": lambda on: ladder_checks.check_accumulation(on.config, on.data),
    "whole set": lambda on: ladder_checks.check_full_set(on.full.records(), on.config),
    "reported loss": lambda on: ladder_checks.check_reported(on.full.records(), on.config, on.data),
    "event counts": lambda on: ladder_checks.check_event_counts(on.full.records(), on.config),
    "train against eval": lambda on: ladder_checks.check_train_against_eval(on.full.trained(), on.scenes, on.config),
    "resume": lambda on: ladder_checks.check_resume(on.config, on.data),
}


def ladder(
    config: OverfitConfig,
    *,
    only: Collection[str] = (),
    folder: Path | str | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
    trained: tuple[nn.Module, Sequence[Record]] | None = None,
) -> Iterator[CheckResult]:
    """Run the checks of the ladder; yields each result as soon as it is known.

    Args:
        config: see OverfitConfig.
        only: names of the checks to run; all by default.
        folder: run folder for the training on the whole set, which then survives being stopped; none by default.
        on_record: called with each new record of that training.
        trained: model and records of a training on the whole set that was done elsewhere; it is done here if None.

    Raises:
        InputError: for an unknown check, or a run folder that cannot be used.
    """
    data = config.data()
    scenes = data.to(config.device, config.training().dtype)
    subject = _Subject(config, data, scenes, FullTraining(config, data, folder, on_record, trained))
    for name in only:
        check_choice("only", name, CHECKS)
    for name, check in CHECKS.items():
        if not only or name in only:
            yield run_check(name, partial(check, subject))
