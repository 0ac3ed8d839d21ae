"""The overfit ladder: a network that cannot memorise is broken, or its loop is; each check tells which, with a number.

Checks are ordered so that the first red one is the one to read. Each runs the code that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from torch import nn

from rislab.errors import check_choice
from rislab.sanity import ladder_checks
from rislab.sanity.checks import CheckResult, Verdict, run_check
from rislab.sanity.overfit import FullTraining
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.records import Record


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
    on_device = data.to(config.device, config.training().dtype)
    full = FullTraining(config, data, folder, on_record, trained)
    checks: dict[str, Callable[[], Verdict]] = {
        "splits": lambda: ladder_checks.check_splits(data, config.seed),
        "oracle": lambda: ladder_checks.check_oracle(on_device, config.precision),
        "oracle blend": lambda: ladder_checks.check_oracle_blend(on_device, max(config.blend, 0.2), config.precision),
        "zero matrix": lambda: ladder_checks.check_zero(on_device, config.precision),
        "identity": lambda: ladder_checks.check_identity(on_device, config.precision),
        "constant": lambda: ladder_checks.check_constant(on_device),
        "untrained": lambda: ladder_checks.check_untrained(config, on_device),
        "gradient coverage": lambda: ladder_checks.check_coverage(config, data),
        "batch independence": lambda: ladder_checks.check_batch_independence(config, on_device),
        "input dependence": lambda: ladder_checks.check_input_dependence(config, on_device),
        "one scene": lambda: ladder_checks.check_one_scene(config, data),
        "one batch": lambda: ladder_checks.check_one_batch(config, data),
        "accumulation": lambda: ladder_checks.check_accumulation(config, data),
        "whole set": lambda: ladder_checks.check_full_set(full.records(), config),
        "reported loss": lambda: ladder_checks.check_reported(full.records(), config, data),
        "event counts": lambda: ladder_checks.check_event_counts(full.records(), config),
        "train against eval": lambda: ladder_checks.check_train_against_eval(full.trained(), on_device, config),
        "resume": lambda: ladder_checks.check_resume(config, data),
    }
    for name in only:
        check_choice("only", name, checks)
    for name, check in checks.items():
        if not only or name in only:
            yield run_check(name, check)
