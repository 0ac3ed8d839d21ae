"""The loop: exact accumulation, independence from observers, truthful records, precisions, skipped steps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rislab.checkup.recording.gradients import GRADIENT_TOLERANCES, compare_gradients, flat_gradient
from rislab.data.covariance import nmse
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.curriculum import NO_CURRICULUM
from rislab.model.losses import compute_loss
from rislab.model.network import CovarianceNet
from rislab.sanity.checks import one_window
from rislab.sanity.ladder_checks import OracleModel
from rislab.training.loop import TrainConfig, TrainState, config_warnings, evaluate, fit, windows
from rislab.training.records import (
    Record,
    StepRecord,
    console,
    epoch_records,
    equal_but_time,
    step_records,
)

QUICK = TrainConfig(epochs=2, micro_batch=16)


def train(data: SceneBatch, config: TrainConfig, **options: Any) -> tuple[CovarianceNet, list[Record]]:
    model = CovarianceNet.build(data.config)
    return model, list(fit(model, data, config, **options))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# Windows


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 300), micro_batch=st.integers(1, 70), steps=st.integers(1, 40), epoch=st.integers(1, 9))
def test_windows_hold_every_scene_once_and_the_tail_is_ragged(
    count: int, micro_batch: int, steps: int, epoch: int
) -> None:
    config = TrainConfig(micro_batch=micro_batch, accumulation_steps=steps)
    plan = windows(count, config, epoch)
    indices = torch.cat([micro for window in plan for micro in window.micro_batches])
    assert sorted(indices.tolist()) == list(range(count))
    micro_batches = math.ceil(count / micro_batch)
    assert len(plan) == math.ceil(micro_batches / steps)
    assert sum(window.samples for window in plan) == count
    assert all(len(window.micro_batches) == steps for window in plan[:-1])


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        plan = windows(50, TrainConfig(seed=seed, micro_batch=50), epoch)
        return list(plan[0].micro_batches[0].tolist())

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


# Accumulation


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("count", "micro_batch"), [(64, 32), (64, 8), (57, 8), (30, 29), (5, 1)])
def test_accumulated_gradient_is_that_of_one_batch(
    precision: str, count: int, micro_batch: int, classroom: SceneBatch
) -> None:
    def gradient(size: int, accumulation_steps: int) -> torch.Tensor:
        config = TrainConfig(
            micro_batch=size, accumulation_steps=accumulation_steps, precision=precision, clip_norm=None
        )
        model = CovarianceNet.build(classroom.config)
        one_window(model, classroom[:count], config)
        return flat_gradient(model)

    comparison = compare_gradients(gradient(micro_batch, math.ceil(count / micro_batch)), gradient(count, 1))
    limit, alpha_limit = GRADIENT_TOLERANCES[precision]
    assert comparison.relative_error <= limit
    assert abs(comparison.alpha - 1) <= alpha_limit
    assert comparison.cosine > 1 - limit


def test_the_window_gradient_is_the_gradient_of_the_mean_loss(classroom: SceneBatch) -> None:
    config = TrainConfig(micro_batch=7, accumulation_steps=100, precision="fp64", clip_norm=None)
    trained = CovarianceNet.build(classroom.config)
    one_window(trained, classroom[:30], config)
    looped = flat_gradient(trained)
    model = CovarianceNet.build(classroom.config).double()
    data = classroom[:30].to("cpu", torch.float64)
    compute_loss(model(data.snapshots, data.codes, data.channel), data, NO_CURRICULUM).total.backward()
    direct = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert compare_gradients(looped, direct).relative_error < 1e-12


@pytest.mark.slow
def test_whole_runs_agree_for_the_same_effective_batch(classroom: SceneBatch) -> None:
    finals = []
    for count in (1, 2, 4, 8):
        config = TrainConfig(
            epochs=3, micro_batch=32 // count, accumulation_steps=count, precision="fp64", optimiser="sgd", lr_head=1.0,
            ema=None,
        )  # fmt: skip
        finals.append(weights(train(classroom[:64], config)[0]))
    for other in finals[1:]:
        # Six steps, each exact to 1e-15, in a smooth loss.
        torch.testing.assert_close(other, finals[0], atol=1e-11, rtol=0)


# Observation


def test_neither_consumer_nor_its_random_draws_change_training(classroom: SceneBatch) -> None:
    class Noisy(nn.Module):
        """A model with dropout: its training depends on the random state."""

        def __init__(self) -> None:
            super().__init__()
            self.net = CovarianceNet.build(classroom.config)
            self.head = nn.Dropout(0.1)

        def forward(self, snapshots: torch.Tensor, codes: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
            factor = self.net(snapshots, codes, channel)
            return torch.view_as_complex(self.head(torch.view_as_real(factor)))

    silent = Noisy()
    list(fit(silent, classroom, QUICK))
    watched = Noisy()
    for record in fit(watched, classroom, QUICK):
        torch.randn(3)
        torch.manual_seed(99)
        watched.eval()
        assert record is not None
        watched.train()
    assert torch.equal(weights(silent), weights(watched))


def test_the_callers_random_state_is_left_alone(classroom: SceneBatch) -> None:
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    train(classroom, QUICK)
    assert torch.equal(torch.randn(4), expected)


def test_nothing_is_printed(classroom: SceneBatch, capfd: pytest.CaptureFixture[str]) -> None:
    train(classroom, QUICK)
    assert capfd.readouterr() == ("", "")


def test_closing_stops_at_a_step_boundary_and_removes_all_hooks(classroom: SceneBatch) -> None:
    model = CovarianceNet.build(classroom.config)
    stream = fit(model, classroom, QUICK)
    first = next(stream)
    after_one = weights(model)
    stream.close()
    assert torch.equal(weights(model), after_one)
    assert isinstance(first, StepRecord)
    _, records = train(classroom, QUICK)
    assert equal_but_time(first, records[0])
    output = model(classroom.snapshots, classroom.codes, classroom.channel)
    assert output.requires_grad
    with pytest.raises(StopIteration):
        next(stream)


# Records


def test_records_hold_what_a_plain_recomputation_finds(classroom: SceneBatch) -> None:
    config = TrainConfig(
        epochs=1, micro_batch=16, accumulation_steps=3, clip_norm=0.01, optimiser="sgd", lr_head=0.1, lr_backbone=0.05
    )
    model = CovarianceNet.build(classroom.config)
    for record in fit(model, classroom, config):
        if not isinstance(record, StepRecord):
            continue
        gradients = {
            group: torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None])
            for group, part in (("backbone", model.backbone), ("head", model.head))
        }
        for group, gradient in gradients.items():
            assert record.grad_norm_clipped[group] == pytest.approx(float(gradient.norm()), rel=1e-5)
        total = math.hypot(*record.grad_norm.values())
        clipped = math.hypot(*record.grad_norm_clipped.values())
        assert clipped == pytest.approx(min(total, 0.01), rel=1e-3)
        moved = math.hypot(
            *(record.learning_rate[group] * float(gradient.norm()) for group, gradient in gradients.items())
        )
        before = weights(model) + 0  # after the step; its norm differs by the update, 1e-5 of it
        assert record.update_ratio == pytest.approx(moved / float(before.norm()), rel=1e-3)
        assert record.coverage.tensors == 4
        assert (record.coverage.none, record.coverage.zero, record.coverage.nonfinite) == (0, 0, 0)
        assert record.terms["nmse"].share == pytest.approx(1.0)
        assert record.loss == record.loss_nmse == pytest.approx(record.loss_nmse_pred)
    assert [record.micro_batches for record in step_records(fit(model, classroom, config))] == [3, 3, 2]


def test_reported_loss_is_the_raw_loss_weighted_by_samples(classroom: SceneBatch) -> None:
    # A learning rate this small leaves the weights alone to 1e-7, so that the losses can be recomputed afterwards.
    config = TrainConfig(
        epochs=1, micro_batch=50, accumulation_steps=2, optimiser="sgd", lr_head=1e-12, lr_backbone=1e-12
    )
    model, records = train(classroom, config, validation=classroom[:20])
    exact = float(nmse(model.predict(classroom), classroom.factor()).mean())
    last = epoch_records(records)[-1]
    assert last.train == pytest.approx(exact, rel=1e-5)
    assert last.train_eval == last.loss_nmse_pred == pytest.approx(exact, rel=1e-5)
    validation = float(nmse(model.predict(classroom[:20]), classroom[:20].factor()).mean())
    assert last.validation == pytest.approx(validation, rel=1e-5)
    assert [record.samples for record in step_records(records)] == [100, 28]


def test_counters_count_events(classroom: SceneBatch) -> None:
    config = TrainConfig(epochs=3, micro_batch=20, accumulation_steps=3)
    _, records = train(classroom, config)
    for record in epoch_records(records):
        counters = record.counters
        assert counters.forwards == counters.backwards == 7 * record.epoch
        assert counters.steps_applied == counters.scheduler_ticks == record.step == 3 * record.epoch
        assert counters.steps_skipped == 0


def test_warm_up_starts_above_zero_and_cosine_ends_above_zero(classroom: SceneBatch) -> None:
    few = classroom[:32]
    config = TrainConfig(epochs=5, micro_batch=8, warmup=4, lr_head=0.01, lr_backbone=0.002, ema=None)
    rates = [record.learning_rate for record in step_records(train(few, config)[1])]
    assert rates[0]["head"] == pytest.approx(0.01 / 4)
    assert rates[0]["backbone"] == pytest.approx(0.002 / 4)
    assert max(rate["head"] for rate in rates) <= 0.01
    assert rates[-1]["head"] == pytest.approx(0.01 * 0.01)
    constant = dataclasses.replace(config, schedule="constant", warmup=0)
    assert {record.learning_rate["head"] for record in step_records(train(few, constant)[1])} == {0.01}


def test_averaged_weights_follow_their_recursion(classroom: SceneBatch) -> None:
    config = TrainConfig(epochs=1, micro_batch=32, ema=0.7)
    model = CovarianceNet.build(classroom.config)
    state = TrainState.begin(model, len(classroom), config)
    expected = None
    for record in fit(model, classroom, config, resume=state):
        if isinstance(record, StepRecord):
            expected = weights(model) if expected is None else 0.7 * expected + 0.3 * weights(model)
    assert state.ema is not None
    assert expected is not None
    torch.testing.assert_close(weights(state.ema.module), expected, atol=1e-6, rtol=0)
    score = epoch_records(fit(CovarianceNet.build(classroom.config), classroom, config))[-1]
    assert score.ema == pytest.approx(evaluate(state.ema.module, classroom).nmse, rel=1e-5)
    assert epoch_records(train(classroom, dataclasses.replace(config, ema=None))[1])[-1].ema is None


def test_validation_score_does_not_depend_on_phase_or_blend(classroom: SceneBatch) -> None:
    config = TrainConfig(epochs=3, micro_batch=64, curriculum="three-phase", blend=0.3)
    model, records = train(classroom, config, validation=classroom[:32])
    assert [record.phase for record in epoch_records(records)] == ["phase=0", "phase=1", "phase=2"]
    last = epoch_records(records)[-1]
    assert last.validation == pytest.approx(evaluate(model, classroom[:32]).nmse, rel=1e-6)
    assert last.loss_nmse != last.loss_nmse_pred
    step = step_records(records)[-1]
    assert set(step.terms) == {"nmse", "subspace", "order", "position"}
    assert sum(term.share for term in step.terms.values()) == pytest.approx(1.0)
    assert sum(term.weight * term.value for term in step.terms.values()) == pytest.approx(step.loss, rel=1e-5)


# Precision and numbers that are not


def test_half_precision_really_scales_on_the_cpu(classroom: SceneBatch) -> None:
    _, records = train(classroom, dataclasses.replace(QUICK, precision="fp16"))
    assert step_records(records)[0].loss_scale == 65536.0
    assert all(record.applied for record in step_records(records))
    _, plain = train(classroom, dataclasses.replace(QUICK, precision="bf16"))
    assert step_records(plain)[0].loss_scale == 1.0


class Poisoned(nn.Module):
    """A network whose answer to chosen forwards holds infinity."""

    def __init__(self, config: SceneConfig, bad: set[int]) -> None:
        super().__init__()
        self.net = CovarianceNet.build(config)
        self.bad, self.calls = bad, 0

    def forward(self, snapshots: torch.Tensor, codes: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
        factor = self.net(snapshots, codes, channel)
        if self.training:
            self.calls += 1
        return factor * math.inf if self.training and self.calls in self.bad else factor


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_skipped_step_is_recorded_with_its_reason_and_moves_nothing(precision: str, classroom: SceneBatch) -> None:
    model = Poisoned(classroom.config, {2})
    config = TrainConfig(epochs=1, micro_batch=32, precision=precision, warmup=0)
    seen: list[torch.Tensor] = []
    records: list[Record] = []
    for record in fit(model, classroom, config):
        records.append(record)
        seen.append(weights(model))
    first, bad, third, last = step_records(records)
    assert (first.applied, bad.applied, third.applied, last.applied) == (True, False, True, True)
    assert bad.reason == "NaN or infinity in the gradient"
    assert bad.found_inf
    assert bad.coverage.nonfinite > 0
    assert not math.isfinite(bad.loss)
    assert bad.update_ratio == 0.0
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    # The schedule stands still with the step, and the scaler backs off.
    assert third.learning_rate == bad.learning_rate
    assert third.loss_scale == (32768.0 if precision == "fp16" else 1.0)
    summary = epoch_records(records)[-1]
    assert summary.counters.steps_skipped == 1
    assert summary.counters.steps_applied == summary.counters.scheduler_ticks == 3
    assert not math.isfinite(summary.train)
    assert "nan" in next(line for line in console(records) if line.startswith("Epoch")) or math.isinf(summary.train)


@pytest.mark.slow
def test_pure_functions_of_the_window_are_finite_in_every_precision(classroom: SceneBatch) -> None:
    scores = {}
    for precision in ("fp64", "fp32", "bf16", "fp16"):
        config = TrainConfig(epochs=20, micro_batch=32, precision=precision, ema=None)
        scores[precision] = epoch_records(train(classroom[:32], config)[1])[-1].train_eval
    assert scores["fp32"] == pytest.approx(scores["fp64"], rel=1e-3)
    assert max(scores.values()) < 0.5


# Bad input


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"accumulation_steps": 0}, "accumulation_steps is 0; allowed: a whole number in [1,"),
        ({"micro_batch": 1.5}, "micro_batch is 1.5"),
        ({"precision": "fp8"}, "precision is 'fp8'; allowed: 'fp64', 'fp32', 'bf16', 'fp16'"),
        ({"lr_head": 0.0}, "lr_head is 0.0; allowed: a number in (0,"),
        ({"lr_backbone": math.nan}, "lr_backbone is nan"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"blend": 1.0}, "blend is 1.0"),
        ({"optimiser": "lion"}, "optimiser is 'lion'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"device": "cuda:99"}, "device is 'cuda:99'; allowed: 'cpu'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"gradient_accumulation": 4}, "gradient_accumulation is not a field of TrainConfig"),
    ],
)
def test_bad_training_fields_are_named(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig.from_dict(fields)
    assert said in str(caught.value)


def test_bad_data_and_sizes_are_named(classroom: SceneBatch) -> None:
    model = CovarianceNet.build(classroom.config)
    before = weights(model)
    with pytest.raises(InputError, match=r"micro_batch is 129, and the set has 128 scenes; allowed: 1\.\.128"):
        next(fit(model, classroom, TrainConfig(micro_batch=129)))
    poisoned = dataclasses.replace(classroom, snapshots=classroom.snapshots.clone())
    poisoned.snapshots[17, 3, 2] = math.nan
    with pytest.raises(InputError, match="snapshots of scene 17"):
        next(fit(model, poisoned, QUICK))
    with pytest.raises(InputError, match="snapshots of scene 17"):
        next(fit(model, classroom, QUICK, validation=poisoned))
    with pytest.raises(InputError, match="data is a list"):
        next(fit(model, [1, 2], QUICK))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no trainable parameter"):
        next(fit(model.requires_grad_(False), classroom, QUICK))
    assert torch.equal(weights(model), before)


def test_a_window_longer_than_the_epoch_is_allowed_and_said(classroom: SceneBatch) -> None:
    config = TrainConfig(epochs=2, micro_batch=16, accumulation_steps=1000)
    assert "accumulation_steps is 1000, and an epoch has 8 micro-batches" in config_warnings(config, 128)[0]
    assert [record.micro_batches for record in step_records(train(classroom, config)[1])] == [8, 8]
    assert config_warnings(TrainConfig(micro_batch=16, accumulation_steps=4), 128) == []
    assert "holds 32 scenes" in config_warnings(TrainConfig(micro_batch=16, accumulation_steps=3), 128)[0]


def test_scenes_are_brought_to_the_precision_of_the_weights(classroom: SceneBatch) -> None:
    model, _ = train(classroom, dataclasses.replace(QUICK, precision="fp64"))
    assert model.predict(classroom[:2]).dtype == torch.complex128
    assert evaluate(model, classroom) == evaluate(model, classroom.to("cpu", torch.float64))


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("wavefront", ["spherical", "fresnel", "planar"])
def test_the_truth_is_never_computed_in_half_precision(precision: str, wavefront: str) -> None:
    data = simulate(SceneConfig.preset("classroom", wavefront=wavefront), 32, seed=0)
    # Under autocast a real matrix product in the steering vectors once cost 1e-4 here.
    assert abs(evaluate(OracleModel(data), data, precision=precision).nmse) < 1e-6
    _, records = train(data, TrainConfig(epochs=1, micro_batch=16, precision=precision))
    assert math.isfinite(epoch_records(records)[-1].train)


def test_a_state_of_another_run_is_refused(classroom: SceneBatch) -> None:
    model = CovarianceNet.build(classroom.config)
    state = TrainState.begin(model, len(classroom), QUICK)
    others = (
        (CovarianceNet.build(classroom.config), classroom, QUICK),
        (model, classroom[:64], QUICK),
        (model, classroom, dataclasses.replace(QUICK, epochs=3)),
    )
    for arguments in others:
        with pytest.raises(InputError, match="state of another model, configuration or set"):
            next(fit(*arguments, resume=state))


class Answers(nn.Module):
    """A model that answers with whatever it is told to make of a right-sized factor."""

    def __init__(self, config: SceneConfig, change: Any) -> None:
        super().__init__()
        self.net, self.change = CovarianceNet.build(config), change

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.change(self.net(*inputs))  # type: ignore[no-any-return]


@pytest.mark.parametrize("change", [lambda f: f[:1], lambda f: f.real, lambda f: f[:, :35], lambda f: f[..., 0]])
def test_answers_of_the_wrong_shape_are_named(change: Any, classroom: SceneBatch) -> None:
    with pytest.raises(InputError, match="the model's answer is torch"):
        next(fit(Answers(classroom.config, change), classroom, QUICK))


def test_a_finite_gradient_with_an_overflowing_norm_is_not_called_infinite(classroom: SceneBatch) -> None:
    model = Answers(classroom.config, lambda factor: factor * 1e6)
    record = next(fit(model, classroom, dataclasses.replace(QUICK, clip_norm=1.0)))
    assert isinstance(record, StepRecord)
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert record.applied
    assert not record.found_inf
    assert math.hypot(*record.grad_norm.values()) > 1e19
    assert math.hypot(*record.grad_norm_clipped.values()) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("curriculum", ["no-curriculum", "three-phase"])
def test_a_zero_answer_has_a_finite_loss_and_gradient(curriculum: str, classroom: SceneBatch) -> None:
    model = Answers(classroom.config, lambda factor: factor * 0.0)
    record = next(fit(model, classroom, dataclasses.replace(QUICK, curriculum=curriculum)))
    assert isinstance(record, StepRecord)
    assert math.isfinite(record.loss)
    assert record.loss_nmse == pytest.approx(1.0, abs=1e-6)
    assert record.coverage.nonfinite == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": 3}, "model is a int; allowed: a Module"),
        ({"config": {}}, "config is a dict; allowed: a TrainConfig"),
        ({"validation": [1]}, "validation holds no scenes"),
    ],
)
def test_wrong_kinds_of_arguments_are_named(arguments: dict[str, Any], said: str, classroom: SceneBatch) -> None:
    given = {"model": CovarianceNet.build(classroom.config), "data": classroom, "config": QUICK, **arguments}
    with pytest.raises(InputError, match=said):
        next(fit(**given))
    with pytest.raises(InputError, match="no scenes"):
        next(fit(CovarianceNet.build(classroom.config), classroom, QUICK, validation=classroom[:0]))
    with pytest.raises(InputError, match="no scenes"):
        next(fit(CovarianceNet.build(classroom.config), classroom[:0], QUICK))
