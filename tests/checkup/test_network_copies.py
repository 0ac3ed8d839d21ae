"""Copies of networks: whatever hooks and replaced methods do there, the network that was given does not change."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rislab
from rislab.checkup.probes.network_copies import copy_network
from rislab.checkup.process_watch import ProcessWatch

CALLS: list[str] = []
COUNT = 0


def append_globally(module: nn.Module, args: Any, output: Tensor) -> None:
    note("forward")


def note(what: str) -> None:
    CALLS.append(what)


def count_globally(module: nn.Module, args: Any) -> None:
    global COUNT
    COUNT += 1


def append_to(calls: list[str], module: nn.Module, args: Any, output: Tensor) -> None:
    calls.append("partial")


class Tracker:
    def __init__(self) -> None:
        self.calls = 0

    def on_backward(self, module: nn.Module, given: Any, put: Any) -> None:
        self.calls += 1


def hooked() -> tuple[nn.Module, list[str], Tracker]:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    calls: list[str] = []
    tracker = Tracker()
    model.register_forward_hook(append_globally)
    model.register_forward_pre_hook(count_globally)
    model[0].register_forward_hook(lambda *_: calls.append("closure"))
    model[0].register_forward_hook(partial(append_to, calls))
    model[2].register_full_backward_hook(tracker.on_backward)
    return model, calls, tracker


def test_hooks_of_a_copy_have_a_state_of_their_own() -> None:
    CALLS.clear()
    model, calls, tracker = hooked()
    copied = copy_network(model)
    copied(torch.ones(3, 4)).sum().backward()
    assert (CALLS, calls, tracker.calls, COUNT) == ([], [], 0, 0)
    assert all(value.grad is None for value in model.parameters())
    rislab.probe(model, nn.functional.mse_loss, [(torch.randn(4, 4), torch.randn(4, 2))] * 2, steps=3)
    assert (CALLS, calls, tracker.calls, COUNT) == ([], [], 0, 0)


def test_a_hook_that_changes_the_output_still_does_in_a_copy() -> None:
    factor = torch.tensor(3.0)
    model = nn.Linear(4, 2)
    model.register_forward_hook(lambda module, args, output: output * factor)
    assert torch.equal(copy_network(model)(torch.ones(1, 4)), model(torch.ones(1, 4)))


def test_hooks_of_torch_itself_work_on_the_copy() -> None:
    model = nn.utils.spectral_norm(nn.Linear(4, 2))
    copied = copy_network(model)
    copied(torch.ones(1, 4))
    assert not torch.equal(copied.weight_u, model.weight_u)
    assert torch.equal(copy_network(model.eval())(torch.ones(1, 4)), model(torch.ones(1, 4)))


def test_a_forward_that_was_replaced_by_a_function_runs_the_copy() -> None:
    model = nn.Linear(4, 2)
    original = model.forward
    model.forward = lambda x: 2 * original(x)  # type: ignore[method-assign]
    copied = copy_network(model)
    assert torch.equal(copied(torch.ones(1, 4)), model(torch.ones(1, 4)))
    copied(torch.ones(1, 4)).sum().backward()
    assert model.weight.grad is None and copied.get_parameter("weight").grad is not None


def test_state_with_a_graph_is_copied() -> None:
    model = nn.Linear(4, 4)
    model.state = (model(torch.ones(1, 4)), [model(torch.ones(2, 4))])  # type: ignore[assignment]
    state: Any = copy_network(model).state
    assert not state[0].requires_grad and torch.equal(state[1][0], model(torch.ones(2, 4)))


class Held(nn.Module):
    """Its forward calls functions around its layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.dropout = nn.Linear(4, 4), nn.Dropout(0.5)
        inner, dropout = self.inner, self.dropout
        functions = {
            "around layers": lambda x: dropout(inner(x)),
            "by default": lambda x, layers=(inner, dropout): layers[1](layers[0](x)),
            "always on": lambda x: nn.functional.dropout(inner(x), 0.5),
        }
        if kind == "in a list":
            self.steps = [lambda x: inner(x), lambda x: dropout(x)]
        else:
            self.steps = [functions[kind]]
            self.step = functions[kind]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps if len(self.steps) > 1 else [self.step]:
            x = step(x)
        return x


@pytest.mark.parametrize("kind", ["around layers", "by default", "in a list", "always on"])
def test_functions_that_a_module_holds_call_the_layers_of_the_copy(kind: str) -> None:
    """Else a probe in evaluation mode would run the dropout of the network that trains."""
    model = Held(kind)
    copied = copy_network(model)
    copied(torch.ones(3, 4)).sum().backward()
    assert [value.grad is None for value in model.parameters()] == [True, True]
    assert [value.grad is None for value in copied.parameters()] == [False, False]
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as watch:
        for _ in range(8):
            inputs = torch.randn(16, 4)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), inputs).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            model(torch.ones(3, 4))
    names = [one.name for one in watch.findings() if one.severity == "fault"]
    assert names == (["dropout in evaluation mode"] if kind == "always on" else [])
