"""The precision lab: its reference, its measures and its verdicts, each with a case in which it must speak up."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import rislab
from rislab.checkup.recording.gradients import compare_gradients, flat_gradient
from rislab.errors import InputError
from rislab.plots import precision as precision_plots
from rislab.sanity import precision
from rislab.sanity.checks import one_window
from rislab.sanity.number_formats import FORMAT_TOLERANCES, MODES
from rislab.sanity.overfit_config import BATCH, OverfitConfig
from rislab.sanity.precision import PrecisionCell, PrecisionConfig, WindowComparison, accumulation_cells
from rislab.sanity.underflow import Underflow
from rislab.training.loop import windows

CONFIG = PrecisionConfig(scenes=64, windows=2, accumulation_steps=(1, 4))


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, int], PrecisionCell]:
    """All cells; memory is measured in two of the modes only, for the profiler takes longer than the run."""
    measure = precision.window_memory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "window_memory", lambda *run: measure(*run) if run[1].name in ("fp64", "fp32") else 0)
        return {(cell.mode, cell.accumulation_steps): cell for cell in precision.precision_cells(CONFIG)}


@pytest.mark.slow
def test_every_cell_is_there_with_all_its_windows(table: dict[tuple[str, int], PrecisionCell]) -> None:
    assert list(table) == CONFIG.places()
    for cell in table.values():
        assert [window.step for window in cell.windows] == [1, 2]
        assert cell.skipped == 0
        assert cell.seconds > 0


@pytest.mark.parametrize("mode", [mode.name for mode in MODES.values() if mode.sound])
def test_sound_modes_are_green(mode: str, table: dict[tuple[str, int], PrecisionCell]) -> None:
    assert [table[mode, steps].red for steps in (1, 4)] == [(), ()]


@pytest.mark.parametrize(
    ("mode", "steps", "red"),
    [
        ("pure bf16", 1, ("stuck",)),
        ("pure bf16", 4, ("stuck",)),
        ("fp16 without scaler", 1, ("underflow",)),
        ("fp16 without scaler", 4, ("underflow",)),
        ("sum of squares in fp16", 1, ("relative L2", "|α − 1|", "stuck")),
        ("sum of squares in fp16", 4, ("relative L2", "|α − 1|", "stuck")),
        ("BatchNorm", 1, ()),
        ("BatchNorm", 4, ("relative L2", "|α − 1|")),
    ],
)
def test_an_unsound_mode_is_red_for_its_own_reason(
    mode: str, steps: int, red: tuple[str, ...], table: dict[tuple[str, int], PrecisionCell]
) -> None:
    assert table[mode, steps].red == red


def test_the_loop_is_innocent_of_batch_statistics(table: dict[tuple[str, int], PrecisionCell]) -> None:
    cell = table["BatchNorm", 4]
    assert cell.relative_error > 0.1
    # A replay of the same micro-batches differs by the rounding of float32 only.
    assert cell.replay_error <= FORMAT_TOLERANCES["fp32"].relative_error


def test_expectations_hold_and_their_opposites_are_named(table: dict[tuple[str, int], PrecisionCell]) -> None:
    assert precision.unexpected_cells(list(table.values())) == []
    swapped = [
        dataclasses.replace(table["BatchNorm", 4], mode="fp32"),
        dataclasses.replace(table["fp32", 4], mode="BatchNorm"),
    ]
    first, second = precision.unexpected_cells(swapped)
    assert "RED fp32" in first and "relative L2" in first
    assert second == "BatchNorm: expected red, and all 1 cells are green"
    # In one batch BatchNorm is expected to be green, and nothing is said of a mode that was not run.
    assert precision.unexpected_cells([table["BatchNorm", 1]]) == []


def test_the_reference_is_the_gradient_of_the_loop_in_float64() -> None:
    mode = MODES["fp64"]
    data = CONFIG.data()
    model = CONFIG.model(mode).double()
    (window,) = windows(len(data), CONFIG.training(mode, 4), 1)
    exact = precision.exact_gradient(model, data.to(dtype=torch.float64), window.micro_batches)
    trained = CONFIG.model(mode)
    one_window(trained, data, CONFIG.training(mode, 4))
    looped = flat_gradient(trained)
    # The same sums in the same order.
    assert compare_gradients(looped, exact).relative_error <= 1e-15
    # A gradient of other scenes is another one: the check can fail.
    half = precision.exact_gradient(model, data.to(dtype=torch.float64), window.micro_batches[:2])
    assert compare_gradients(looped, half).relative_error > 0.1


@pytest.mark.slow
def test_the_alarm_grows_as_the_error_of_a_sound_run_does() -> None:
    """fp32 learns one batch almost by heart: relative L2 grows a hundredfold, its product with √NMSE does not."""
    config = PrecisionConfig(scenes=64, windows=80, modes=("fp32",), accumulation_steps=(1,))
    (cell,) = precision.precision_cells(config)
    assert cell.nmse < 1e-3
    assert cell.relative_error > 10 * cell.windows[0].relative_error
    assert cell.red == ()


def test_one_number_is_printed_per_cell_and_the_allowance_is_named() -> None:
    """The largest error of these is not the one that uses most of its alarm: every place shows the latter."""
    late = window(step=1, relative_error=9e-5, loss=1e-4)  # allowance 100
    early = window(step=2, relative_error=5e-5, loss=1.0)
    cell = PrecisionCell("fp32", 1, (late, early), 0)
    assert cell.red == ("relative L2",) and cell.relative_error == 5e-5
    assert cell.measured["relative L2"] == (5e-5, FORMAT_TOLERANCES["fp32"].relative_error)
    alone = PrecisionCell("fp32", 1, (dataclasses.replace(late, relative_error=9e-3),), 0)
    places = [precision_plots.cell_hover(alone), precision_plots.cell_explanation(alone)]
    assert all("relative L2 9e-3, alarm 1.0e-03 = 1e-05 × allowance 100" in text for text in places)
    assert "L2 9.0e-03" in alone.line()
    table = precision_plots.precision_table([alone])
    assert table.data[0].text[0][0] == "✗9e-3"


def window(**changes: Any) -> WindowComparison:
    """A window that is within every alarm of fp32."""
    sound = WindowComparison(1, 1e-7, 1 + 1e-8, 1.0, 1e-7, 0.0, 0.0, 0.5, 1.0, True, 1e-3)
    return dataclasses.replace(sound, **changes)


@pytest.mark.parametrize(
    ("changes", "red"),
    [
        ({}, ()),
        ({"relative_error": 1e-3}, ("relative L2",)),
        ({"relative_error": math.nan}, ("relative L2",)),
        ({"alpha": 0.99}, ("|α − 1|",)),
        ({"alpha": math.inf}, ("|α − 1|",)),
        ({"underflow": 0.5}, ("underflow",)),
        ({"stuck": 0.5}, ("stuck",)),
        ({"applied": False}, ("relative L2", "|α − 1|", "underflow", "stuck")),
    ],
)
def test_each_measure_turns_a_cell_red(changes: dict[str, Any], red: tuple[str, ...]) -> None:
    assert PrecisionCell("fp32", 1, (window(**changes),), 0).red == red


def test_the_worst_window_counts_and_a_skipped_one_does_not() -> None:
    good, bad = window(), window(relative_error=1.0)
    assert PrecisionCell("fp32", 1, (good, bad, good), 0).red == ("relative L2",)
    skipped = window(relative_error=math.nan, alpha=math.nan, stuck=math.nan, applied=False)
    cell = PrecisionCell("fp32", 1, (good, skipped, good), 0)
    assert (cell.red, cell.skipped) == ((), 1)


def test_underflow_counts_what_lies_below_the_smallest_normal_number() -> None:
    layer = nn.Identity()
    underflow = Underflow(layer)
    assert math.isnan(underflow.share())
    gradient = torch.tensor([0.0, 3e-5, 7e-5, -1.0], dtype=torch.float16)  # fp16 is normal from 6.1e-5
    layer(torch.zeros(4, dtype=torch.float16, requires_grad=True)).backward(gradient)
    assert underflow.share() == 0.5
    layer(torch.zeros(4, requires_grad=True)).backward(torch.tensor([3e-5, 7e-5, 1e-30, 1.0]))
    assert underflow.share() == 0.0


@pytest.mark.slow
def test_peak_memory_repeats_and_falls_with_smaller_micro_batches(table: dict[tuple[str, int], PrecisionCell]) -> None:
    data = CONFIG.data()
    assert precision.window_memory(CONFIG, MODES["fp32"], 4, data) == table["fp32", 4].peak_bytes
    for mode in ("fp64", "fp32"):
        assert table[mode, 1].peak_bytes > table[mode, 4].peak_bytes
    # Twice the bytes a number.
    assert 1.9 <= table["fp64", 1].peak_bytes / table["fp32", 1].peak_bytes <= 2.1


def test_measuring_changes_nothing_that_is_trained(table: dict[tuple[str, int], PrecisionCell]) -> None:
    mode = MODES["fp32"]
    records = rislab.fit(CONFIG.model(mode), CONFIG.data(), CONFIG.training(mode, 4))
    plain = [record.loss for record in records if isinstance(record, rislab.StepRecord)]
    assert [window.loss for window in table["fp32", 4].windows] == plain


def test_without_the_scaler_there_is_no_scale(table: dict[tuple[str, int], PrecisionCell]) -> None:
    assert {window.loss_scale for window in table["fp16 without scaler", 1].windows} == {1.0}
    assert {window.loss_scale for window in table["fp16", 1].windows} == {65536.0}


def test_pure_bf16_holds_weights_gradients_and_moments_in_bfloat16() -> None:
    mode = MODES["pure bf16"]
    model, records = precision.begin_run(CONFIG, mode, 1, CONFIG.data())
    next(records)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.bfloat16}
    assert {parameter.grad.dtype for parameter in trained if parameter.grad is not None} == {torch.bfloat16}


@pytest.mark.parametrize("preset", ["classroom", "full"])
def test_the_sum_of_squares_always_passes_the_range_of_fp16(preset: str) -> None:
    """By Jensen: G beams of mean power N have a sum of squares of at least G N²."""
    config = PrecisionConfig(preset=preset, scenes=64)
    data = config.data()[:8]
    model = config.model(MODES["sum of squares in fp16"])
    power = model.get_submodule("maps")(data.snapshots, data.codes, data.channel)
    beams, elements = power.shape[-1], data.config.elements
    assert beams * elements**2 > torch.finfo(torch.float16).max
    assert bool(((elements * power).square().sum(-1) >= 0.999 * beams * elements**2).all())
    # In float32 the same model sees its input: it answers two scenes differently.
    with torch.no_grad():
        exact = model(data.snapshots, data.codes, data.channel)
        with torch.autocast("cpu", dtype=torch.float16):
            blind = model(data.snapshots, data.codes, data.channel)
    assert float((exact[0] - exact[1]).abs().max()) > 1e-3
    assert torch.equal(blind[0], blind[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "huge"}, "preset is 'huge'"),
        ({"scenes": 100}, "scenes is 100; allowed: multiples of 64"),
        ({"scenes": 0}, "scenes is 0"),
        ({"windows": 1}, "windows is 1"),
        ({"modes": []}, "modes is"),
        ({"modes": ["fp8"]}, "modes is 'fp8'"),
        ({"modes": ["fp32", "fp32"]}, "each value once"),
        ({"modes": "fp32"}, "modes is 'fp32'; allowed: a list"),
        ({"accumulation_steps": [3]}, "accumulation_steps is 3"),
        ({"accumulation_steps": [64]}, "accumulation_steps is 64"),
        ({"accumulation_steps": [True]}, "accumulation_steps is True"),
        ({"lr": 0.0}, "lr is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"epochs": 3}, "epochs is not a field of PrecisionConfig"),
    ],
)
def test_bad_input_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        PrecisionConfig.from_dict(fields)


def test_lists_are_taken_as_they_come_from_a_notebook() -> None:
    config = PrecisionConfig.from_dict({"modes": ["fp32"], "accumulation_steps": [8, 1]})
    assert config.places() == [("fp32", 8), ("fp32", 1)]
    assert config.training(MODES["fp32"], 8).micro_batch == BATCH // 8


@pytest.mark.process
def test_a_run_in_a_thread_of_its_own_prints_nothing() -> None:
    script = (
        "import threading, torch\n"
        "from rislab.sanity import memory, precision\n"
        "memory.start_profiler(torch.device('cpu'))\n"
        "config = precision.PrecisionConfig(scenes=64, windows=2, modes=['fp32', 'fp16'], accumulation_steps=[2])\n"
        "thread = threading.Thread(target=lambda: list(precision.precision_cells(config)))\n"
        "thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_accumulation_changes_no_gradient_in_any_precision() -> None:
    cells = list(accumulation_cells(OverfitConfig(), accumulation_steps=(1, 4)))
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


def test_only_divisors_of_the_batch_are_compared() -> None:
    with pytest.raises(InputError, match="accumulation_steps holds 3; allowed: divisors of 64"):
        list(accumulation_cells(OverfitConfig(), accumulation_steps=(1, 3)))
