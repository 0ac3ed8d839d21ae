"""The ladder: green on the correct package, and every check red by at least one named fault."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rislab.checkup.gradients import compare_gradients
from rislab.errors import InputError
from rislab.faults import catalogue
from rislab.faults.patching import patched
from rislab.sanity import checks, overfit, overfit_ladder
from rislab.sanity.checks import Verdict
from rislab.sanity.precision import accumulation_cells
from rislab.training.records import Record, epoch_records

# Small, and with ragged windows: 6 micro-batches of 12 (the last of 4) in windows of 4.
SMALL = {"preset": "classroom", "scenes": 64, "micro_batch": 12, "accumulation_steps": 4, "epochs": 60}


@pytest.fixture(scope="module")
def green() -> dict[str, checks.CheckResult]:
    return {check.name: check for check in overfit_ladder.ladder(overfit.OverfitConfig(**SMALL))}


def test_every_rung_holds_on_the_correct_house(green: dict[str, checks.CheckResult]) -> None:
    assert [check.line() for check in green.values() if not check.passed] == []
    assert len(green) == 18


def test_every_rung_can_be_made_red(green: dict[str, checks.CheckResult]) -> None:
    named = {check for fault in catalogue.FAULTS for check in fault.checks}
    assert named == set(green)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("fault", [fault for fault in catalogue.FAULTS if fault.checks], ids=lambda fault: fault.name)
def test_a_fault_turns_its_rungs_red(fault: catalogue.Fault) -> None:
    with patched(fault) as package:
        config = package.sanity.overfit.OverfitConfig(**SMALL)
        checks = {check.name: check for check in package.sanity.overfit_ladder.ladder(config, only=fault.checks)}
    assert {name for name, check in checks.items() if not check.passed} == set(fault.checks)


def test_an_edit_that_no_longer_matches_is_refused() -> None:
    stale = catalogue.Fault("stale", "", "training.loop", "no such line", "", "", ())
    with pytest.raises(InputError, match="matches 0 times in training"):
        stale.edited()
    with pytest.raises(InputError, match="allowed: once"):
        catalogue.Fault("vague", "", "training.loop", "return", "", "", ()).edited()


def test_a_broken_house_leaves_the_real_one_alone() -> None:
    import sys

    fault = catalogue.faults_by_name()["never divided"]
    with patched(fault) as package:
        assert package.training.loop.fit is not overfit.fit
        assert package.sanity.overfit.fit is package.training.loop.fit
        assert package.training.loop.fit is not overfit.fit
        # What the edit does not reach is that of rislab.
        assert package.data.scenes.SceneBatch is overfit.SceneBatch
    assert not [name for name in sys.modules if name.startswith("rislab_")]


def test_whole_set_survives_being_stopped(tmp_path: Path) -> None:
    config = overfit.OverfitConfig(**{**SMALL, "epochs": 5})
    seen: list[Record] = []
    straight = list(overfit_ladder.ladder(config, only=["whole set", "event counts"], on_record=seen.append))
    stopped = overfit.FullTraining(config, config.data(), tmp_path)
    stream = stopped.stream()
    for _ in range(4):
        next(stream)
    stream.close()
    resumed = list(overfit_ladder.ladder(config, only=["whole set", "event counts"], folder=tmp_path))
    assert [check.value for check in resumed] == [check.value for check in straight]
    again = list(overfit_ladder.ladder(config, only=["whole set"], folder=tmp_path))
    given = list(overfit_ladder.ladder(config, only=["whole set"], trained=(config.model(), seen)))
    assert given[0].value == straight[0].value
    assert again[0].value == straight[0].value == epoch_records(seen)[-1].train_eval


def test_matrix_compares_every_precision_with_one_batch() -> None:
    cells = list(accumulation_cells(overfit.OverfitConfig(), accumulation_steps=(1, 4)))
    assert [(cell.precision, cell.accumulation_steps) for cell in cells] == [
        (precision, count) for precision in ("fp64", "fp32", "bf16", "fp16") for count in (1, 4)
    ]
    assert all(cell.passed for cell in cells)
    against_exact = {cell.precision: cell.fp64_error for cell in cells}
    assert (
        against_exact["fp64"]
        < 1e-12
        < against_exact["fp32"]
        < 1e-5
        < against_exact["fp16"]
        < against_exact["bf16"]
        < 0.1
    )


def test_gradients_are_compared_in_scale_and_direction() -> None:
    r = torch.tensor([3.0, 4.0])
    assert compare_gradients(4 * r, r).alpha == pytest.approx(4.0)
    assert compare_gradients(4 * r, r).cosine == pytest.approx(1.0)
    turned = compare_gradients(torch.tensor([-4.0, 3.0]), r)
    assert (turned.alpha, turned.cosine) == (0.0, 0.0)
    assert turned.relative_error == pytest.approx(math.sqrt(2))
    assert math.isnan(compare_gradients(r, 0 * r).alpha)


def test_a_rung_that_is_not_a_number_is_red() -> None:
    for relation in ("<=", ">=", "=="):
        assert not Verdict(math.nan, relation, 1.0, "").holds


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"preset": "huge"}, "preset is 'huge'; allowed: 'full', 'classroom'"),
        ({"scenes": 63}, "scenes is 63; allowed: a whole number in [64,"),
        ({"micro_batch": 513}, "micro_batch is 513"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"accumulation_steps": 0}, "accumulation_steps is 0"),
        ({"lr": 0.0}, "lr is 0.0; allowed: a number in (0,"),
        ({"sceens": 3}, "sceens is not a field of OverfitConfig"),
    ],
)
def test_bad_ladder_fields_are_named(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        overfit.OverfitConfig.from_dict(fields)
    assert said in str(caught.value)
    with pytest.raises(InputError, match="only is 'top'"):
        list(overfit_ladder.ladder(overfit.OverfitConfig(), only=["top"]))


def test_a_run_that_was_stopped_is_judged_by_what_it_did() -> None:
    config = overfit.OverfitConfig(**SMALL)
    records = list(overfit.FullTraining(config, config.data()).records())
    half = [record for record in records if record.epoch <= 30]
    checks = overfit_ladder.ladder(config, only=["whole set", "event counts"], trained=(config.model(), half))
    whole, ledger = checks
    assert "after 30 of 60 epochs" in whole.sentence
    assert ledger.passed
    early = overfit_ladder.ladder(config, only=["whole set", "event counts"], trained=(config.model(), records[:1]))
    for check in early:
        assert not check.passed
        assert "stopped before its first epoch ended" in check.sentence


def test_only_divisors_of_the_batch_are_compared() -> None:
    with pytest.raises(InputError, match="accumulation_steps holds 3; allowed: divisors of 64"):
        list(accumulation_cells(overfit.OverfitConfig(), accumulation_steps=(1, 3)))
