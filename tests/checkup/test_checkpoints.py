"""A part that is computed again by the reentrant kind gets a gradient where its input asks for one, or not at all."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from rislab.checkup.observers.checkpoints import Checkpoints
from rislab.checkup.process_watch import ProcessWatch


class Net(nn.Module):
    """Two blocks that are computed again, and a head.

    Args:
        kind: of the checkpoint, and what the first block is given.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(5, 5), nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.head, self.kind = nn.Linear(5, 1), kind
        self.first.requires_grad_(kind == "after a layer")
        self.blocks.requires_grad_(kind != "frozen")

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            # Looked up at each call, as it is replaced while a run is watched.
            function = block.forward if self.kind == "bound" else block
            x = torch.tanh(checkpoint.checkpoint(function, x, use_reentrant=self.kind != "the other kind"))
        result: Tensor = self.head(x)
        return result


@pytest.mark.parametrize("kind", ["no gradient", "bound", "after a layer", "frozen", "the other kind"])
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_what_the_reentrant_kind_gets(kind: str) -> None:
    torch.manual_seed(0)
    model = Net(kind)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    with ProcessWatch() as process:
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(8, 5)).square().mean().backward()
            optimizer.step()
    lost = [(one.severity, one.name) for one in process.findings() if one.name == "detached backbone"]
    assert lost == ([("fault", "detached backbone")] if kind in ("no gradient", "bound") else [])
    assert checkpoint.checkpoint.__module__ == "torch.utils.checkpoint" and _is_as_torch_made_it()


def _is_as_torch_made_it() -> bool:
    return not hasattr(checkpoint.checkpoint, "replacement")


def test_functions_are_given_back_where_an_observer_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Checkpoints, roots: object) -> None:
        raise RuntimeError("an error of the checkup's own")

    monkeypatch.setattr(Checkpoints, "on_backward", failing)
    model = Net("after a layer")
    with ProcessWatch() as process:
        model(torch.randn(8, 5)).sum().backward()
    assert _is_as_torch_made_it()
    assert any("an error of the checkup's own" in one.evidence for one in process.findings())


def test_functions_are_given_back_by_a_thread_that_trained_beside_the_watched_one() -> None:
    begun, ended = threading.Event(), threading.Event()

    def train() -> None:
        model(torch.randn(8, 5)).sum().backward()
        begun.set()
        ended.wait()

    model = Net("after a layer")
    thread = threading.Thread(target=train)
    with ProcessWatch():
        thread.start()
        begun.wait()
        Net("after a layer")(torch.randn(8, 5)).sum().backward()
    ended.set()
    thread.join()
    assert _is_as_torch_made_it()
