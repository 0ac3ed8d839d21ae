"""Windows that are only counted leave what windows leave that are recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import rislab
from rislab.checkup.loop_watch import Watch
from rislab.checkup.recording import counting

STEPS, CHANGE = 90, 75


def loop(kind: str, loss: str) -> tuple[Watch, list[torch.Tensor]]:
    """A loop of windows of two micro-batches that is unlike itself at one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    function: Any = {"module": nn.MSELoss(), "python": lambda a, b: (a - b).square().mean()}.get(
        loss, nn.functional.mse_loss
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    declared = None if loss == "none" else function
    watch = rislab.watch(model, optimizer, loss=declared, scheduler=scheduler, every=10, accumulation_steps=2)
    computed = watch.loss if loss == "python" else function

    def elsewhere(*given: torch.Tensor) -> torch.Tensor:
        return computed(*given)

    with watch:
        for step in range(STEPS):
            changed = kind if step == CHANGE else ""
            optimizer.zero_grad()
            for _ in range(3 if changed == "longer" else 1 if changed == "shorter" else 2):
                inputs = torch.randn(3 if changed == "samples" else 5, 4)
                if changed == "evaluation":
                    with torch.no_grad():
                        model.eval()(inputs)
                    model.train()
                output, target = model(inputs), inputs.sum(1, keepdim=True)
                if changed == "not finite":
                    target = target * torch.nan
                value = (elsewhere if changed == "line" else computed)(output, target)
                (value * 0.9 if changed == "weight" else value * 0.5).backward()
            if changed == "clip":
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if changed == "step":
                optimizer.step()
            scheduler.step()
    return watch, [value.detach().clone() for value in model.parameters()]


KINDS = ["none", "longer", "shorter", "samples", "evaluation", "line", "weight", "clip", "step"]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["module", "function", "python", "none"])
def test_counted_windows_leave_the_same(monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """Losses, rates, ticks, places, counts and findings, whatever changes at one step, and by whatever loss."""
    for kind in [*KINDS, "not finite"]:
        monkeypatch.setattr(counting, "ALIKE", STEPS)
        recorded, values = loop(kind, loss)
        monkeypatch.setattr(counting, "ALIKE", 24)
        counted, same = loop(kind, loss)
        assert not len(recorded.trace.merged) and len(counted.trace.merged) >= 25, kind
        assert all(map(torch.equal, values, same)) or kind == "not finite"
        for one, two in zip(recorded.trace.raw_losses(), counted.trace.raw_losses(), strict=True):
            assert one == pytest.approx(two, rel=1e-6, nan_ok=True), kind
        assert recorded.trace.numbers() == counted.trace.numbers(), kind
        for name in ("forwards", "backwards", "taken_count", "ticks"):
            assert getattr(recorded.trace, name) == getattr(counted.trace, name), (kind, name)
        # A loss that is not declared, and not heard, is where its backward is.
        names = [
            [(one.name, one.where if loss != "none" else "") for one in watch.findings()]
            for watch in (recorded, counted)
        ]
        assert names[0] == names[1], kind
