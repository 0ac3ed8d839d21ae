"""What had begun before the watching began is not judged, wherever in a correct loop that was."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional

import rislab
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.call_stack import caller

PLACES = ("forward", "after forward", "after loss", "backward", "after backward", "step", "after step", "closure")
KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "closure": lambda weights: torch.optim.LBFGS(weights, lr=0.1, max_iter=3),
    "plain": lambda weights: torch.optim.SGD(weights, lr=0.05),
    "with a state": lambda weights: torch.optim.Adam(weights, lr=0.01),
}


def faults_of(kind: str, place: str, size: int, begun_in: int, everything: bool) -> list[str]:
    """Train by a correct loop, which begins to be watched within one of its steps; what it shows."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = KINDS[kind](network.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    known = rislab.watch(network, optimizer, scheduler=scheduler, loss=functional.mse_loss)
    watch = ProcessWatch() if everything else known
    now = begun = -1

    def at(here: str) -> None:
        nonlocal begun
        if here == place and now == begun_in and begun < 0:
            begun = now
            watch.__enter__()

    network[1].register_forward_hook(lambda *_: at("forward"))
    optimizer.register_step_pre_hook(lambda *_: at("step"))

    def window() -> torch.Tensor:
        at("closure")
        optimizer.zero_grad()
        for _ in range(size):
            x = torch.randn(8, 4)
            output = network(x)
            at("after forward")
            loss = functional.mse_loss(output, x.sum(1, keepdim=True))
            loss.register_hook(lambda _: at("backward"))
            at("after loss")
            (loss / size).backward()
            at("after backward")
        return loss

    while (now := now + 1) < 6:
        if kind == "closure":
            optimizer.step(window)  # type: ignore[arg-type]
        else:
            window()
            optimizer.step()
        at("after step")
        scheduler.step()
    assert begun == begun_in
    watch.__exit__(None, None, None)
    return [str(one) for one in watch.findings() if one.severity != "note"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("everything", [False, True])
def test_what_had_begun_before_the_watching_is_not_judged(kind: str, everything: bool) -> None:
    """A forward, a loss, a backward, a window, a step, the tick of a scheduler."""
    for number, place in enumerate(PLACES):
        for size in (1, 3):
            assert not faults_of(kind, place, size, (number + size) % 3, everything), (place, size)


def test_a_frame_of_python_itself_is_no_line_of_the_loop() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(caller).result() == ("", ())
