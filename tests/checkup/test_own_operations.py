"""What the loop has put around the operations of torch does not hear those of the checkup."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

import rislab
from rislab.checkup.process_watch import ProcessWatch

CALLS: list[str] = []


class Counting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        CALLS.append(str(func))
        return func(*args, **(kwargs or {}))


class Tagged(Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        CALLS.append(getattr(func, "__name__", ""))
        return super().__torch_function__(func, types, args, kwargs or {})


def plain(model: nn.Module, inputs: Tensor) -> Tensor:
    return functional.mse_loss(model(inputs), inputs[:, :1])


def tagged(model: nn.Module, inputs: Tensor) -> Tensor:
    # The conversions themselves are no operations of the class.
    return functional.mse_loss(model(inputs.as_subclass(Tagged)), inputs[:, :1].as_subclass(Tagged))


def selective(model: nn.Module, inputs: Tensor) -> Tensor:
    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        CALLS.append(str(operation))
        kept = operation is torch.ops.aten.addmm.default
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    def contexts() -> Any:
        return create_selective_checkpoint_contexts(policy)

    outputs = checkpoint(model, inputs, use_reentrant=False, context_fn=contexts)
    return functional.mse_loss(outputs, inputs[:, :1])  # type: ignore[arg-type]


@contextlib.contextmanager
def flops() -> Iterator[None]:
    with FlopCounterMode(display=False) as counter:
        yield
    CALLS.append(str(counter.get_total_flops()))


CASES: dict[str, tuple[Callable[[], Any], Callable[[nn.Module, Tensor], Tensor]]] = {
    "mode of the dispatcher": (Counting, plain),
    "count of operations": (flops, plain),
    "class of tensors": (contextlib.nullcontext, tagged),
    "selective checkpoint": (contextlib.nullcontext, selective),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["watch", "process"])
def test_operations_of_the_checkup_are_not_heard(name: str, kind: str) -> None:
    around, loss = CASES[name]

    def run(watched: bool) -> tuple[list[Tensor], list[str]]:
        CALLS.clear()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        watch: Any = rislab.watch(model, optimizer, every=1) if kind == "watch" else ProcessWatch(every=1)
        with watch if watched else contextlib.nullcontext(), around():
            for _ in range(6):
                optimizer.zero_grad()
                loss(model, torch.randn(8, 3)).backward()
                optimizer.step()
        if watched:
            assert not watch.findings(), str(watch.findings())
        return [*model.state_dict().values(), torch.get_rng_state()], [*CALLS]

    bare, calls = run(False)
    watched, heard = run(True)
    assert calls and heard == calls
    assert all(map(torch.equal, watched, bare))


@pytest.mark.parametrize("kind", ["watch", "process"])
def test_the_profiler_finds_modules_with_their_stacks(kind: str) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch: Any = rislab.watch(model, optimizer) if kind == "watch" else ProcessWatch()
    with watch, profile(activities=[ProfilerActivity.CPU], with_stack=True) as profiler:
        for _ in range(3):
            optimizer.zero_grad()
            plain(model, torch.randn(8, 3)).backward()
            optimizer.step()
    assert sum(event.name == "aten::mse_loss" for event in profiler.events() or ()) == 3


@pytest.mark.parametrize("kind", ["watch", "process"])
def test_a_loss_that_the_loop_has_wrapped_is_called_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, original = [], functional.mse_loss
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def noisy(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return original(*args, **kwargs) + 0.1 * torch.rand(())

    monkeypatch.setattr(functional, "mse_loss", noisy)
    with rislab.watch(model, optimizer) if kind == "watch" else ProcessWatch():
        for _ in range(6):
            optimizer.zero_grad()
            plain(model, torch.randn(8, 3)).backward()
            optimizer.step()
    assert len(calls) == 6
