"""The handler of ignite on real runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ignite
import pytest
import torch
from ignite.engine import Engine, create_supervised_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rislab.checkup.fit_watch import TrainingFaultError
from rislab.checkup.ignite import CheckupHandler
from rislab.errors import InputError


class Network(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))


def loader() -> DataLoader[Any]:
    inputs = torch.randn(256, 10, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs[:, :1].sin()), 16, shuffle=True)


def supervised(model: nn.Module, optimizer: torch.optim.Optimizer, share: float = 1.0) -> Engine:
    """Accumulates four micro-batches, which ignite divides by four."""
    loss = nn.MSELoss()
    return create_supervised_trainer(
        model, optimizer, lambda given, wanted: share * loss(given, wanted), gradient_accumulation_steps=4
    )


def divided_twice(model: nn.Module, optimizer: torch.optim.Optimizer) -> Engine:
    return supervised(model, optimizer, 0.25)


def never_zeroed(model: nn.Module, optimizer: torch.optim.Optimizer) -> Engine:
    def update(engine: Engine, batch: list[Tensor]) -> None:
        model.train()
        nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
        optimizer.step()

    return Engine(update)


def run(make: Any, batches: Any = None, watched: bool = True, **given: Any) -> tuple[Any, nn.Module]:
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    engine, handler = make(model, optimizer), CheckupHandler(model, optimizer, **given)
    if watched:
        handler.attach(engine)
    engine.run(loader() if batches is None else batches, max_epochs=2, epoch_length=16)
    return handler, model


@pytest.mark.parametrize(("make", "name"), [(divided_twice, "divided twice"), (never_zeroed, "never zeroed")])
def test_a_fault_is_named(make: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    handler, _ = run(make)
    assert name in [finding.name for finding in handler.findings.faults]
    assert f"FAULT   {handler.findings.faults[0].code}" in capsys.readouterr().out
    with pytest.raises(TrainingFaultError, match=name):
        run(make, on_fault="raise")


def test_a_correct_run_is_bit_identical_and_not_accused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        handler, watched = run(supervised, accumulation_steps=4)
    assert "'checkup/faults': 0" in caplog.text
    assert [str(finding) for finding in handler.findings if finding.severity != "note"] == []
    _, bare = run(supervised, watched=False)
    states = watched.state_dict().values(), bare.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_an_exception_in_a_run_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    """ignite tells of it only those who then take it: the next forward shows it."""

    def broken() -> Iterator[Any]:
        for place, batch in enumerate(loader()):
            if place == 9:
                raise ZeroDivisionError("in the data")
            yield batch

    with pytest.raises(ZeroDivisionError, match="in the data"):
        run(divided_twice, broken())
    Network()(torch.ones(2, 10))
    text = capsys.readouterr().out
    assert "rislab checkup of Engine.run(), 2 steps until an error ended it" in text
    assert "C1 divided twice" in text


def test_an_unknown_version_is_watched_by_hooks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ignite, "__version__", "0.2.0")
    handler, _ = run(divided_twice)
    assert "ignite 0.2.0 is not known to work, 0.5 is" in capsys.readouterr().out
    assert [finding.name for finding in handler.findings.faults] == ["divided twice"]


@pytest.mark.parametrize("given", [{"accumulation_steps": 0}, {"every": 0}, {"on_fault": "shout"}])
def test_what_is_declared_is_checked(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        run(supervised, **given)
