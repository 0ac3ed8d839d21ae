"""Long runs: what is kept of them is bounded, and says what all of it would say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rislab
from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import Watch
from rislab.checkup.recording import counting, merged_steps, step_storage
from rislab.checkup.recording.windows import watched_run
from tests.forks import Forked

Change = Callable[[int, Any], None]


def loop(
    steps: int = 150,
    size: int = 2,
    *,
    schedule: Callable[[int], float] = lambda tick: 1 / (1 + tick),
    at_zero: Callable[[int], bool] = lambda step: True,
    window: Callable[[int], int] = lambda step: 2,
    scale: Callable[[int], float] = lambda step: 0.5,
    clip: Callable[[int], float | None] = lambda step: None,
    training: Callable[[int], bool] = lambda step: True,
    bad: Callable[[int], bool] = lambda step: False,
    declared: bool = True,
    report: Callable[[list[float]], float] = lambda losses: sum(losses) / len(losses),
) -> tuple[Watch, Findings]:
    """A loop of three epochs, each of whose parts may be wrong at some steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    reported: list[float] = []
    with rislab.watch(
        model,
        optimizer,
        loss=nn.functional.mse_loss,
        scheduler=scheduler,
        accumulation_steps=size if declared else None,
        every=3,
    ) as watch:
        for epoch in range(3):
            losses = []
            for step in range(epoch * steps // 3, (epoch + 1) * steps // 3):
                model.train(training(step))
                if at_zero(step):
                    optimizer.zero_grad()
                for _ in range(window(step)):
                    inputs = torch.randn(5, 4)
                    loss = nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True))
                    if bad(step):
                        loss = loss * torch.nan
                    (scale(step) * loss).backward()
                    losses.append(loss.item())
                limit = clip(step)
                if limit:
                    nn.utils.clip_grad_norm_(model.parameters(), limit)
                optimizer.step()
                scheduler.step()
            reported.append(report(losses))
    return watch, watch.findings(reported)


LOOPS: dict[str, dict[str, Any]] = {
    "right": {},
    "undeclared": {"declared": False},
    "never zeroed": {"at_zero": lambda step: False},
    "zeroed late": {"at_zero": lambda step: step % 50 != 40},
    "never divided": {"scale": lambda step: 1.0},
    "divided twice at the end": {"scale": lambda step: 0.25 if step > 140 else 0.5},
    "short windows": {"window": lambda step: 1 if step % 50 == 49 else 2, "declared": False},
    "one odd window": {"window": lambda step: 3 if step == 120 else 2},
    "one window without a loss": {"window": lambda step: 0 if step == 130 else 2},
    "windows of one": {"window": lambda step: 2 if step % 7 == 0 else 1},
    "clipped": {"clip": lambda step: 0.1},
    "clipped late": {"clip": lambda step: 0.1 if step > 100 else None},
    "evaluation mode": {"training": lambda step: step < 50},
    "evaluation mode at the end": {"training": lambda step: step < 140},
    "nan": {"bad": lambda step: step == 133},
    "often nan": {"bad": lambda step: step % 3 == 2},
    "rates of 0": {"schedule": lambda tick: 0.0 if tick == 90 else 1.0},
    "rates end": {"schedule": lambda tick: max(0.001, 1 - tick / 20)},
    "rates end at 0": {"schedule": lambda tick: max(0.0, 1 - tick / 60)},
    "rates rise": {"schedule": lambda tick: 0.001 + tick / 150},
    "last over n": {"report": lambda losses: losses[-1] / len(losses)},
    "rounded": {"report": lambda losses: round(sum(losses) / len(losses), 3)},
    "sum": {"report": sum},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_what_is_merged_or_counted_changes_no_finding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(counting, "ALIKE", 150)
        whole, findings = loop(**LOOPS[name])
        assert not whole.trace.merged and len(whole.trace.steps) == 150
        patch.setattr(step_storage, "FIRST", 90)
        patch.setattr(step_storage, "UNLIKE", 60)
        patch.setattr(step_storage, "MANY", 4)
        merged = loop(**LOOPS[name])
    counted = loop(**LOOPS[name])
    for short, same in (merged, counted):
        assert [finding.name for finding in findings] == [finding.name for finding in same]
        assert findings == same
        assert len(short.trace.merged) + len(short.trace.steps) == short.trace.step_count == 150
        assert short.trace.numbers() == whole.trace.numbers()
        assert [loss[1:] for loss in short.trace.raw_losses()] == [loss[1:] for loss in whole.trace.raw_losses()]
        assert short.trace.taken_count == whole.trace.taken_count == 150
        assert watched_run(short.trace, short.declared).size == watched_run(whole.trace, whole.declared).size
    assert len(merged[0].trace.merged) > 30
    assert len(counted[0].trace.merged) > 30 or name in ("evaluation mode", "often nan")


def test_closures_keep_all_their_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_storage, "FIRST", 20)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(torch.ones(4, 3)), torch.zeros(4, 1))
        loss.backward()
        return loss

    with rislab.watch(model, optimizer) as watch:
        for _ in range(60):
            optimizer.step(closure)
    assert watch.trace.taken_count == 60 and not watch.findings().faults


@pytest.mark.slow
def test_the_end_of_what_can_be_kept_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_storage, "FIRST", 30)
    monkeypatch.setattr(merged_steps, "MOST", 40)
    watch, findings = loop()
    text = f"what came after {watch.trace.step_count} steps was not recorded"
    assert text in [finding.evidence for finding in findings.unjudged]
    assert watch.trace.step_count < 60


# In a process of its own, whose memory no other test has a part in.
GROWTH = """
import gc, sys, torch, tracemalloc
from torch import nn
from rislab.checkup.observers import printed_losses
from rislab.checkup.recording import step_storage, trace
from rislab.checkup.process_watch import ProcessWatch

step_storage.FIRST = trace.FORWARD_USES = printed_losses.LOSSES = 300
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
# From the beginning: what was there before, and is replaced one by one, is no growth.
tracemalloc.start(1)
with ProcessWatch(every=eval(sys.argv[1])) as watch:
    for _ in range(3):
        for _ in range(600):
            optimizer.zero_grad()
            # A new module each time, as a loss often is.
            nn.MSELoss()(model(torch.ones(2, 3)), torch.zeros(2, 1)).backward()
            optimizer.step()
        gc.collect()
        print(tracemalloc.get_traced_memory()[0])
tracemalloc.stop()
print(watch.steps, len(watch.findings().faults))
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("every", [None, 1])
def test_memory_does_not_grow_with_steps(every: int | None, tmp_path: Path) -> None:
    script = tmp_path / "growth.py"
    script.write_text(GROWTH)
    with Forked([sys.executable, script, str(every)], stdout=subprocess.PIPE, text=True) as watched:
        said, _ = watched.communicate()
    _, before, after, steps, faults = map(int, said.split())
    # 36 bytes of numbers, what an array takes in advance, and ever fewer objects that torch has not made before.
    assert (after - before) / 600 < 80, said
    assert (steps, faults) == (1799, 0)
