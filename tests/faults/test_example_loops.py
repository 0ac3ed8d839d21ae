"""The four loops of others: none is accused as it stands, and each edit is named."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from rislab.errors import InputError
from rislab.faults import example_loops
from rislab.plots import checkup as checkup_plots


@pytest.fixture(scope="module")
def pairs() -> dict[str, example_loops.LoopPair]:
    return {name: example_loops.run_pair(name, example_loops.LoopsConfig(epochs=2)) for name in example_loops.LOOPS}


@pytest.mark.slow
@pytest.mark.parametrize("name", example_loops.LOOPS)
def test_a_loop_is_not_accused_and_its_edit_is_named(name: str, pairs: dict[str, example_loops.LoopPair]) -> None:
    pair = pairs[name]
    if pair.missing:
        pytest.skip(pair.missing)
    assert pair.correct is not None and pair.faulty is not None
    assert list(pair.correct.findings) == []
    assert pair.named
    assert pair.faulty.findings[0].name == example_loops.LOOPS[name].fault
    assert pair.faulty.findings[0].where.startswith(f"{name}.py:")
    assert "no fault" in pair.row() and example_loops.LOOPS[name].fault in pair.row()
    assert example_loops.LOOPS[name].fault in pair._repr_html_()


@pytest.mark.parametrize("name", example_loops.LOOPS)
def test_an_edit_matches_once_and_its_diff_keeps_the_columns(name: str) -> None:
    loop = example_loops.LOOPS[name]
    assert loop.source().count(loop.before) == 1
    lines = loop.diff().splitlines()
    assert lines and all(line[0] in "-+" for line in lines)
    assert {line[1:] for line in lines if line[0] == "-"} <= set(loop.source().splitlines())
    assert {line[1:] for line in lines if line[0] == "+"} <= set(loop.source(faulty=True).splitlines())


def test_the_picture_shows_the_length_and_the_weights(pairs: dict[str, example_loops.LoopPair]) -> None:
    alphas, cosines, weights = (
        [trace.y for trace in checkup_plots.pair_steps(pairs["plain"]).data][place::3] for place in range(3)
    )
    # Windows of four equal micro-batches: the exact mean, and four times that; 1e-4 is the alarm level of float32.
    for found, wanted in zip(alphas, (1.0, 4.0), strict=True):
        assert found == pytest.approx([wanted] * len(found), rel=1e-4)
    assert all(found == pytest.approx([1.0] * len(found), abs=1e-6) for found in cosines)
    assert [len(found) for found in weights] == [4 * len(found) for found in alphas]
    assert weights[1] == pytest.approx([4.0] * len(weights[1]), rel=1e-4)


def test_watching_changes_no_bit() -> None:
    config = example_loops.LoopsConfig(epochs=2)
    data = example_loops.simulate(example_loops.SceneConfig.preset("classroom"), example_loops.SCENES, seed=config.seed)
    batches = [
        data[first : first + example_loops.MICRO_BATCH]
        for first in range(0, example_loops.SCENES, example_loops.MICRO_BATCH)
    ]
    torch.manual_seed(config.seed)
    model = example_loops.CovarianceNet.build(data.config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    unwatched = example_loops.plain_loop(model, optimizer, batches, example_loops.SIZE, config.epochs)
    assert example_loops.watch_loop("plain", config).reported == unwatched


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pair = example_loops.run_pair("fabric")
    assert "pip install 'rislab[loops]'" in pair.missing
    assert pair.missing in pair.row() and pair.missing in pair._repr_html_()
    assert checkup_plots.pair_steps(pair) is None and not pair.named


def test_bad_input() -> None:
    with pytest.raises(InputError, match="name is 'keras'"):
        example_loops.run_pair("keras")
    with pytest.raises(InputError, match="epochs is 0"):
        example_loops.LoopsConfig(epochs=0)
