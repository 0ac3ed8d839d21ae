"""Records: they come back from JSON with every digit, and are printed as the lines of the story."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator

import pytest

from rislab.training.records import (
    Counters,
    EpochRecord,
    GradientCounts,
    Record,
    StepRecord,
    Term,
    console,
    equal_but_time,
    from_dict,
    to_dict,
)


def example_records(loss: float = 0.8061, train: float = 0.8061) -> Iterator[Record]:
    yield StepRecord(
        epoch=1, step=8, phase="no-curriculum", micro_batches=1, samples=64, loss=loss, loss_nmse=0.8061,
        loss_nmse_pred=0.9861, terms={"nmse": Term(0.8061, 1.0, 1.0)}, requires_grad=True,
        grad_norm={"backbone": 0.0123, "head": 0.0246}, grad_norm_clipped={"backbone": 0.0123, "head": 0.0246},
        coverage=GradientCounts(4, 0, 0, 0), learning_rate={"backbone": 1e-4, "head": 1e-3}, loss_scale=1.0,
        found_inf=False, applied=True, reason="", update_ratio=1e-3, seconds=0.1,
    )  # fmt: skip
    yield EpochRecord(
        epoch=1, epochs=30, step=8, phase="no-curriculum", train=train, train_eval=0.9, loss_nmse=0.8,
        loss_nmse_pred=0.9, validation=0.9217, ema=None, counters=Counters(8, 8, 8, 0, 8), seconds=1.0,
    )  # fmt: skip


def test_console_prints_the_lines_of_the_story() -> None:
    lines = list(console(example_records()))
    assert lines == [
        "[LOSS] loss_nmse=0.8061 loss_nmse_pred=0.9861 | R_test.requires_grad=True | finite=True",
        "[GRAD] backbone=1.23e-02 head=2.46e-02 ok=True | steps applied=8 skipped=0",
        "Epoch 001/030 [no-curriculum] train 0.8061  val 0.9217",
    ]
    assert re.fullmatch(r"Epoch \d{3}/\d{3} \[.*\] train \d\.\d{4}  val \d\.\d{4}", lines[-1])


@pytest.mark.parametrize(
    "loss, text", [(123456789.1234, "1.2346e+08"), (0.0000123456, "1.2346e-05"), (0.8061, "0.8061"), (math.inf, "inf")]
)
def test_printed_losses_have_five_significant_digits(loss: float, text: str) -> None:
    window, end = example_records()
    assert isinstance(window, StepRecord) and isinstance(end, EpochRecord)
    windows = dataclasses.replace(window, loss_nmse=loss, loss_nmse_pred=loss)
    first, _, last = console([windows, dataclasses.replace(end, train=loss, validation=loss)])
    assert first.startswith(f"[LOSS] loss_nmse={text} loss_nmse_pred={text} |")
    assert last.endswith(f"] train {text}  val {text}")


def test_records_survive_json_with_every_digit() -> None:
    for record in example_records(loss=math.pi, train=math.nan):
        again = from_dict(to_dict(record))
        assert equal_but_time(again, record)
        plain = {name: value for name, value in to_dict(record).items() if name != "kind"}
        assert json.dumps(plain) == json.dumps(dataclasses.asdict(record))
    one, two = (next(iter(example_records(loss=value))) for value in (0.1, 0.1 + 1e-16 * 2))
    assert not equal_but_time(one, two)
