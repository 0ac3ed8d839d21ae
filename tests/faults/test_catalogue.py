"""The catalogue: enough faults, each a single edit, each with a symptom that it shows and the correct loop does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest

from rislab.faults import catalogue, symptoms
from rislab.faults.catalogue import FAMILIES, FAULTS
from rislab.faults.fault import Fault, Symptom, source_of
from rislab.faults.gradient_attribution import GradientAttribution
from rislab.faults.patching import patched

SIGNED = [pytest.param(fault, id=fault.name) for fault in FAULTS if fault.symptoms]
QUIET = ["ignore:Detected call of `lr_scheduler.step", "ignore:torch.cuda.amp.GradScaler is enabled"]


def reader(package: ModuleType) -> Callable[[Symptom], float]:
    """Reads signs off a package, training once for each setting."""

    @cache
    def seen(setting: tuple[tuple[str, Any], ...]) -> GradientAttribution:
        return symptoms.examine(package, **dict(setting))

    def value(sign: Symptom) -> float:
        if sign.quantity in symptoms.OF_A_PACKAGE:
            return symptoms.OF_A_PACKAGE[sign.quantity](package)
        return symptoms.OF_A_TRAINING[sign.quantity](seen(tuple(sign.setting.items())))

    return value


@pytest.fixture(scope="module")
def healthy() -> Iterator[Callable[[Symptom], float]]:
    with patched() as package:
        yield reader(package)


def test_the_catalogue_is_whole() -> None:
    assert len(FAULTS) >= 40
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(len(family) >= 6 for family in FAMILIES.values())
    for fault in FAULTS:
        assert fault.story and fault.description and (fault.symptoms or fault.checks or fault.conventions), fault.name
        assert set(fault.mistaken_for) <= {other.name for other in FAULTS} - {fault.name}, fault.name
    assert len({(fault.module, fault.before, fault.after) for fault in FAULTS}) == len(FAULTS)


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("fault", SIGNED)
def test_a_fault_shows_its_signs_and_the_correct_loop_does_not(
    fault: Fault, healthy: Callable[[Symptom], float]
) -> None:
    with patched(fault) as package:
        ill = reader(package)
        for sign in fault.symptoms:
            assert sign.shown_by(ill(sign)), f"{sign.quantity} is {ill(sign)}"
            assert not sign.shown_by(healthy(sign)), f"{sign.quantity} of the correct loop is {healthy(sign)}"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_one_edit_of_the_real_source(fault: Fault) -> None:
    assert source_of(fault.module).count(fault.before) == 1
    changed = [line for line in fault.diff().splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert 1 <= len(changed) <= 12


def test_no_trace_of_a_fault_is_in_the_correct_code() -> None:
    for fault in FAULTS:
        assert fault.after.strip() == "" or source_of(fault.module).count(fault.after) <= 1, fault.name


def test_a_house_leaves_the_real_one_alone() -> None:
    import sys

    before = {name for name in sys.modules if name.startswith("rislab_")}
    with patched() as package:
        assert isinstance(package, ModuleType)
    assert {name for name in sys.modules if name.startswith("rislab_")} == before


def test_two_houses_of_one_fault_stand_side_by_side() -> None:
    fault = catalogue.find_fault("never divided")
    with patched(fault) as one:
        with patched(fault) as other:
            assert one.training.loop is not other.training.loop
        # What the inner one took down was its own.
        config = one.sanity.overfit.OverfitConfig(scenes=64, micro_batch=16)
        assert next(one.training.loop.fit(config.model(), config.data(), config.training())).step == 1


def test_houses_share_what_belongs_to_the_process() -> None:
    import rislab.rng

    with patched(catalogue.find_fault("never divided")) as package:
        assert package.training.state.TorchRandomState is rislab.rng.TorchRandomState
        assert package.model.network.GLOBAL_RNG_LOCK is rislab.rng.GLOBAL_RNG_LOCK


SUSPECT = catalogue.find_fault("divided on the first batch only")


def trained(package: ModuleType, accumulation_steps: int, optimiser: str) -> tuple[list[str], list[bytes]]:
    """Records, without their times, and weights after a short training with validation."""
    config = package.sanity.overfit.OverfitConfig(
        scenes=64, micro_batch=12, accumulation_steps=accumulation_steps, epochs=3
    )
    model = config.model()
    fresh = package.data.simulation.simulate(config.scene_config(), 8, seed=0, split="validation")
    stream = package.training.loop.fit(model, config.data(), config.training(optimiser=optimiser), validation=fresh)
    told = [json.dumps({**package.training.records.to_dict(record), "seconds": 0.0}) for record in stream]
    return told, [parameter.detach().numpy().tobytes() for parameter in model.parameters()]


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_the_suspect_did_nothing_where_a_window_is_one_micro_batch(optimiser: str) -> None:
    with patched() as package, patched(SUSPECT) as suspect:
        assert trained(suspect, 1, optimiser) == trained(package, 1, optimiser)
        told, weights = trained(suspect, 4, optimiser)
        true_told, true_weights = trained(package, 4, optimiser)
    assert weights != true_weights and all(one != other for one, other in zip(told, true_told, strict=True))
    reported, true = json.loads(told[-1]), json.loads(true_told[-1])
    assert reported["epoch"] == 3 and reported["validation"] != json.loads(told[2])["validation"]
    # Far from 0 and far from constant: about four times too large, with what the other weights make of it.
    assert 3 < reported["train"] / true["train"] < 5


def test_the_culprit_reports_exactly_nothing() -> None:
    with patched(catalogue.find_fault("loop tail in a branch never taken")) as package:
        for steps in (1, 4):
            seen = symptoms.examine(package, accumulation_steps=steps, validation=16, epochs=3)
            assert [end.train for end in seen.epoch_records] == [0.0] * 3
            assert len({end.validation for end in seen.epoch_records}) == 1
            last = seen.epoch_records[-1].counters
            assert last.forwards == 33 and last.backwards == last.steps_applied == last.scheduler_ticks == 0
            assert all(seen.unchanged)


def test_adam_hides_a_gradient_that_is_too_large_and_sgd_shows_it() -> None:
    moved = {}
    for fault in ((), (catalogue.find_fault("never divided"),)):
        with patched(*fault) as package:
            for optimiser in ("adam", "sgd"):
                moved[optimiser, bool(fault)] = symptoms.examine(
                    package, optimiser=optimiser, epochs=1
                ).relative_update[0]
    # The first update of Adam has the length of the learning rate, but for its ε of 1e-8 under small gradients.
    assert moved["adam", True] / moved["adam", False] == pytest.approx(1, abs=1e-3)
    assert moved["sgd", True] / moved["sgd", False] == pytest.approx(4, abs=1e-3)
