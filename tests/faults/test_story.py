"""The story: what it reproduces exactly, what is measured outside of it, and that every check of it can fail."""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path

import pytest
import torch

from rislab.errors import InputError
from rislab.faults import catalogue, comparison, exercises, story
from rislab.faults.story import EXTRA_FAULTS, LOOP_VARIANTS, REPAIR_ORDER, Replay, StoryConfig, replay
from rislab.training.records import epoch_records

SMALL = StoryConfig(epochs=3, repair_epochs=3)
# Division by n and the way back round twice in float32, 2^-24 each; twice that for the sums.
ROUNDING = 4 * 2**-24


@pytest.fixture(scope="module")
def variants() -> dict[str, Replay]:
    """Every variant of the loop once."""
    return {name: replay(SMALL, name) for name in LOOP_VARIANTS}


@pytest.mark.slow
def test_the_suspect_is_innocent_at_one_batch_a_step_and_at_four_is_not(variants: dict[str, Replay]) -> None:
    assert variants["suspect"].same_as(variants["correct loop"])
    accused, correct = variants["suspect, K = 4"], replay(SMALL, accumulation_steps=4)
    assert not accused.same_as(correct)
    # One of four micro-batches in the first window is divided: 13 and 16 quarters, more or less of the same size.
    assert 3.4 < accused.epoch_records[0].train / correct.epoch_records[0].train < 3.8
    assert len(set(accused.validations)) == SMALL.epochs


@pytest.mark.slow
def test_the_checkup_names_the_faults_and_leaves_the_innocent_alone() -> None:
    findings = {name: story.diagnose_replay(StoryConfig(epochs=3), name) for name in LOOP_VARIANTS}
    assert findings["correct loop"] == findings["suspect"] == []
    for name in ("suspect, K = 4", "stage one", "stage two"):
        assert findings[name][0].name == LOOP_VARIANTS[name].fault


def test_stage_one_reports_exactly_nothing(variants: dict[str, Replay]) -> None:
    run = variants["stage one"]
    assert [end.train for end in run.epoch_records] == [0.0] * 3
    assert len(set(run.validations)) == len(set(run.fresh_nmse)) == 1
    assert all(" train 0.000000  val " in line for line in run.log())
    # The losses were there all the time.
    assert min(map(min, run.batch_losses)) > 0.5


@pytest.mark.parametrize("batches", [8, 16])
def test_stage_two_reports_the_last_batch_over_n(batches: int, variants: dict[str, Replay]) -> None:
    run = variants["stage two"] if batches == 8 else replay(StoryConfig(batches=batches, epochs=3), "stage two")
    for end, losses in zip(run.epoch_records, run.batch_losses, strict=True):
        assert len(losses) == batches
        assert abs(end.train * batches - losses[-1]) <= ROUNDING * losses[-1]
        # No other batch would do.
        assert all(abs(end.train * batches - loss) > ROUNDING * loss for loss in losses[:-1])


def test_the_ledger_of_the_first_epoch(variants: dict[str, Replay]) -> None:
    counted = {name: [*vars(run.first_epoch).values()] for name, run in variants.items()}
    # Forwards, backwards, steps applied, skipped, ticks.
    assert counted["correct loop"] == counted["suspect"] == [8, 8, 8, 0, 8]
    assert counted["suspect, K = 4"] == [8, 8, 2, 0, 2]
    assert counted["stage one"] == [8, 0, 0, 1, 0]
    assert counted["stage two"] == [8, 1, 1, 0, 1]


def test_what_is_true_agrees_with_what_an_honest_loop_tells(variants: dict[str, Replay]) -> None:
    run = variants["correct loop"]
    assert run.fresh_nmse[1:] == run.validations
    # The first window's report was taken at the first weights, as the outside look was.
    first = next(record for record in run.records if record.step == 1)
    assert first.loss == pytest.approx(run.batch_losses[0][0], rel=ROUNDING)  # type: ignore[union-attr]


def test_replays_are_the_same_twice_and_of_another_seed_are_not(variants: dict[str, Replay]) -> None:
    again = replay(SMALL, "stage two")
    assert again.same_as(variants["stage two"])
    assert not replay(StoryConfig(epochs=3, seed=1), "stage two").same_as(again)
    shorter = Replay(again.fault, (), again.records[:-1], again.batch_losses, again.fresh_nmse, again.weights)
    assert not again.same_as(shorter)


def test_a_replay_is_the_training_of_the_package() -> None:
    """Neither the outside look nor the copying of records changes what is trained."""
    overfit = SMALL.overfit(1)
    model = overfit.model()
    from rislab.training.loop import fit

    run = list(fit(model, overfit.data(), overfit.training(warmup=SMALL.warmup), validation=overfit.validation_data()))
    mine = replay(SMALL)
    assert [end.train for end in epoch_records(run)] == [end.train for end in mine.epoch_records]
    assert torch.equal(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), mine.weights)


@pytest.mark.slow
def test_each_extra_fault_hides_the_next() -> None:
    rows = {repair.fixed: repair for repair in story.repairs(SMALL)}
    assert [*rows] == ["nothing", "the branch: stage two", "the loop", *REPAIR_ORDER]
    run = {done: repair.replay for done, repair in rows.items()}
    # The gate guards a line that stage one has rewritten.
    assert "step gate too strict" not in rows["nothing"].remaining and rows["the loop"].remaining == REPAIR_ORDER
    for done in ("nothing", "the branch: stage two", "the loop", REPAIR_ORDER[0]):
        assert len(set(run[done].validations)) == 1, done
        assert run[done].epoch_records[-1].counters.steps_applied == 0, done
    assert run["the loop"].epoch_records[-1].counters.backwards == SMALL.batches * SMALL.epochs
    gate, rate, average, term, floor, leak = (run[name] for name in REPAIR_ORDER[1:])
    assert (gate.idle_steps, rate.idle_steps) == (1, 0)
    assert rate.validations != average.validations and rate.weights.equal(average.weights)
    assert (average.zero_terms, term.zero_terms) == (1, 0)
    assert floor.validations != floor.fresh_nmse[1:] and leak.validations == leak.fresh_nmse[1:]
    assert rows[REPAIR_ORDER[-1]].remaining == ()


def test_extra_faults_that_no_curve_shows_tell_themselves_off_the_correct_code() -> None:
    assert all(catalogue.find_fault(name).symptoms for name in EXTRA_FAULTS)
    for name in EXTRA_FAULTS[len(REPAIR_ORDER) - 2 :]:
        sign = catalogue.find_fault(name).symptoms[0]
        (reading,) = comparison.compare_symptoms(catalogue.find_fault(name), 1)
        assert sign.shown_by(reading.faulty) and not sign.shown_by(reading.correct), name


def test_the_probe_is_silent_after_the_loop() -> None:
    assert len(story.run_with_print(SMALL, "correct loop")) == SMALL.epochs
    assert all(re.fullmatch(r"\[PROBE\] \d\.\d{6}", said) for said in story.run_with_print(SMALL, "correct loop"))
    assert story.run_with_print(SMALL, "stage one") == story.run_with_print(SMALL, "stage two") == []


def test_a_wrong_key_makes_the_nan_loud_and_the_gate_makes_it_silent_again() -> None:
    pair = ("singular vectors differentiated", "overflow looked up under a wrong key")
    with pytest.raises(torch.linalg.LinAlgError, match="non-finite"):
        replay(SMALL, extra_faults=pair, curriculum="three-phase")
    gated = replay(SMALL, extra_faults=(*pair, "step gate too strict"), curriculum="three-phase")
    assert len(set(gated.validations)) == 1 and math.isfinite(gated.validations[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": 7}, "batches is 7; allowed: a divisor of scenes, which is 64"),
        ({"batches": 2}, "batches is 2"),
        ({"scenes": 8}, "scenes is 8"),
        ({"epochs": 0}, "epochs is 0"),
        ({"repair_epochs": 1}, "repair_epochs is 1"),
        ({"warmup": 0}, "warmup is 0"),
        ({"fault": "the butler"}, "fault is 'the butler'"),
        ({"extra_faults": ["the butler"]}, "extra_faults is 'the butler'"),
        ({"fault": "stage one", "extra_faults": ["step gate too strict"]}, "'step gate too strict', but stage one"),
        ({"extra_faults": ["split leakage", "split leakage"]}, "each value once"),
        ({"lr": -1.0}, "lr is -1.0"),
    ],
)
def test_bad_input_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        StoryConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="curriculum is 'two-phase'"):
        replay(SMALL, curriculum="two-phase")


# As the notebook has them: six digits of a log times 8, the batches of an epoch, one level, the
# batches again, and one measured.
@pytest.mark.slow
def test_exercises_take_the_right_answer_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    once = functools.cache(replay)  # a replay is the same twice, as shown above
    monkeypatch.setattr(story, "replay", once)
    logged = float(once(StoryConfig(), "stage two").log()[6].split("train ")[1].split()[0])
    leaked = once(StoryConfig().short, extra_faults=("split leakage",), curriculum="three-phase")
    right = {"last batch": logged * 8, "ticks": 8, "column": 4, "undone": 8}
    right["leak"] = round(leaked.fresh_nmse[-1] / leaked.validations[-1], 1)
    wrong = {"last batch": logged, "ticks": 1, "column": 8, "undone": 0, "leak": 1.0}
    for name, answer in right.items():
        assert exercises.check(name, answer).right, name  # type: ignore[arg-type]
        assert exercises.check(name, wrong[name]).right is False, name  # type: ignore[arg-type]
    cells = json.loads(Path("notebooks/03_whodunnit.ipynb").read_text())["cells"]
    asked = re.findall(r'check\("([^"]+)", answer\)', "".join(line for cell in cells for line in cell["source"]))
    assert asked == [*right]
