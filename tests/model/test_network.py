"""CovarianceNet: size, shapes, what it depends on, where every parameter's gradient is, precision of the factor."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch

from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError
from rislab.model.curriculum import NO_CURRICULUM
from rislab.model.losses import compute_loss
from rislab.model.network import CovarianceNet, parameter_count
from rislab.rng import TorchRandomState


@pytest.mark.parametrize("preset", ["classroom", "full"])
def test_default_network_is_below_a_million_parameters(preset: str) -> None:
    model = CovarianceNet.build(SceneConfig.preset(preset))
    assert parameter_count(model) < 1_000_000
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"backbone", "head"}


def test_output_is_a_complex_factor_of_the_right_shape(full: SceneBatch) -> None:
    model = CovarianceNet.build(full.config)
    factor = model(full.snapshots, full.codes, full.channel)
    assert factor.shape == (16, 144, 5)
    assert factor.dtype == torch.complex64


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_factor_is_formed_in_single_precision_under_autocast(half: torch.dtype, classroom: SceneBatch) -> None:
    model = CovarianceNet.build(classroom.config)
    with torch.autocast("cpu", dtype=half):
        factor = model(classroom.snapshots, classroom.codes, classroom.channel).detach()
    assert factor.dtype == torch.complex64
    exact = model.predict(classroom)
    relative = float((factor - exact).abs().norm() / exact.abs().norm())
    # Half precision was really used (bf16 keeps 8 bits, fp16 11), and only for the real-valued layers.
    assert 1e-5 < relative < 5e-2


def test_double_precision_is_kept_throughout(classroom: SceneBatch) -> None:
    batch = classroom[:4].to("cpu", torch.float64)
    model = CovarianceNet.build(classroom.config)
    single = model.predict(classroom[:4])
    double = model.double().predict(batch)
    assert double.dtype == torch.complex128
    torch.testing.assert_close(single.to(torch.complex128), double, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("curriculum_phase", ["nmse", "subspace", "order", "position"])
def test_every_parameter_gets_a_gradient_from_every_term(curriculum_phase: str, classroom: SceneBatch) -> None:
    model = CovarianceNet.build(classroom.config)
    weights = {"nmse": 0.0, curriculum_phase: 1.0}
    phase = dataclasses.replace(NO_CURRICULUM, **weights)
    compute_loss(model(classroom.snapshots, classroom.codes, classroom.channel), classroom, phase).total.backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not bool(parameter.grad.any())
    ]
    assert without == []


def test_weights_depend_on_the_seed_alone(classroom: SceneBatch) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = CovarianceNet.build(classroom.config, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = CovarianceNet.build(classroom.config, seed=3), CovarianceNet.build(classroom.config, seed=4)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.head.linear.weight, other.head.linear.weight)  # type: ignore[union-attr]


def test_predict_puts_the_mode_back(classroom: SceneBatch) -> None:
    model = CovarianceNet.build(classroom.config)
    for mode in (True, False):
        model.train(mode)
        assert not model.predict(classroom[:2]).requires_grad
        assert model.training is mode


def test_answers_survive_silence_and_large_numbers(classroom: SceneBatch) -> None:
    model = CovarianceNet.build(classroom.config)
    for scale in (0.0, 1e-12, 1e6):
        quiet = dataclasses.replace(classroom[:2], snapshots=classroom[:2].snapshots * scale)
        assert bool(torch.isfinite(torch.view_as_real(model.predict(quiet))).all())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="width is 0"):
        CovarianceNet.build(SceneConfig.preset("classroom"), width=0)
    with pytest.raises(InputError, match="seed is -1"):
        CovarianceNet.build(SceneConfig.preset("classroom"), seed=-1)


def test_a_network_is_not_built_while_a_run_has_swapped_the_random_state() -> None:
    config = SceneConfig.preset("classroom")
    expected = CovarianceNet.build(config, seed=3).head.linear.weight
    built: list[CovarianceNet] = []
    other = threading.Thread(target=lambda: built.append(CovarianceNet.build(config, seed=3)))
    with TorchRandomState(0, torch.device("cpu")).current():
        other.start()
        # Many times as long as a network takes that waits for nobody.
        other.join(0.3)
        assert other.is_alive() and built == []
        torch.rand(7)
    other.join()
    assert torch.equal(built[0].head.linear.weight, expected)
