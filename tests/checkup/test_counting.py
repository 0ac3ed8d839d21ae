"""Windows that are only counted leave what windows leave that are recorded."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

import rislab
from rislab.checkup.loop_watch import Watch
from rislab.checkup.recording import counting

STEPS, CHANGE = 90, 75


def loop(kind: str, loss: str, closure: bool = False) -> tuple[Watch, list[torch.Tensor]]:
    """A loop of windows of two micro-batches, in the closure of the step or before it, unlike itself at one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1), nn.Linear(3, 1))
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    if kind == "evaluated twice":
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.05, max_iter=1, max_eval=9)
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

            def window(changed: str = changed) -> torch.Tensor:
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
                if changed == "clip" or (kind == "not clipped" and not changed):
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                return value

            if kind == "evaluated twice":
                optimizer.param_groups[0]["max_iter"] = 2 if changed else 1
            if closure and changed != "no closure":
                optimizer.step(window)  # type: ignore[arg-type]
            else:
                window()
                optimizer.step()
            if changed == "step":
                optimizer.step()
            scheduler.step()
    return watch, [value.detach().clone() for value in model.parameters()]


KINDS = ["none", "longer", "shorter", "samples", "evaluation", "line", "weight", "clip", "step"]
OF_CLOSURES = ["none", "longer", "shorter", "line", "clip", "not clipped", "evaluated twice", "no closure"]


@pytest.mark.slow
@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("loss", ["module", "function", "python", "none"])
def test_counted_windows_leave_the_same(monkeypatch: pytest.MonkeyPatch, loss: str, closure: bool) -> None:
    """Losses, rates, ticks, places, counts and findings, whatever changes at one step, and by whatever loss."""
    for kind in [*(OF_CLOSURES if closure else KINDS), "not finite"]:
        monkeypatch.setattr(counting, "ALIKE", STEPS)
        recorded, values = loop(kind, loss, closure)
        monkeypatch.setattr(counting, "ALIKE", 24)
        counted, same = loop(kind, loss, closure)
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


def test_a_forward_in_another_thread_leaves_a_window_that_is_being_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in the midst of the counting of a backward, as in a lab that draws while it trains."""
    other, weighed, beside = nn.Sequential(nn.Linear(4, 1)), counting.weighed_node, list[threading.Thread]()

    def amid(root: Any, nodes: Any) -> Any:
        if not beside:
            beside.append(threading.Thread(target=other, args=(torch.ones(2, 4),)))
            beside[0].start()
            beside[0].join()
        return weighed(root, nodes)

    monkeypatch.setattr(counting, "weighed_node", amid)
    watch, _ = loop("", "module")
    assert beside and list(watch.findings()) == []
    assert watch.trace.backwards == 2 * STEPS
