"""What the callbacks share: known versions, calls under way, a trainer of which nothing is known."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from rislab.checkup.fit_watch import FitWatch, Framework, RunningCall, TrainerSettings, framework_class, needs
from rislab.errors import InputError

TORCH = Framework("torch", (2, 0), (2, 99))


class Trainer:
    """Runs what it is given."""

    def run(self, inside: object) -> bool:
        running = RunningCall(self)
        assert running()
        self.running = running
        return bool(inside(running)) if callable(inside) else running()


def test_a_call_is_under_way_until_it_returns_or_fails() -> None:
    one, other = Trainer(), Trainer()
    assert one.run(lambda running: running())
    assert not one.running()
    with pytest.raises(ZeroDivisionError):
        one.run(lambda _: 1 / 0)
    assert not one.running()
    # Another trainer's call of the same method is none of its own.
    assert not other.run(lambda _: one.running())


@pytest.mark.parametrize(("oldest", "newest", "known"), [((2, 0), (2, 99), True), ((1, 0), (1, 9), False)])
def test_a_version_is_known_or_said_to_be_not(oldest: tuple[int, int], newest: tuple[int, int], known: bool) -> None:
    remark = Framework("torch", oldest, newest).remark()
    assert (remark == "") is known
    assert known or remark.startswith(f"torch {torch.__version__} is not known to work, 1.0 to 1.9 are: ")


def test_a_trainer_of_which_nothing_is_known_is_watched(capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> TrainerSettings:
        raise AttributeError("trainer has no optimizers")

    fit = FitWatch("fit", "print", None)
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit.begin(Framework("torch", (1, 0), (1, 9)), read)
    for _ in range(4):
        for _ in range(2):
            inputs = torch.randn(8, 4)
            nn.functional.mse_loss(model(inputs), inputs[:, :1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    fit.end()
    assert [finding.name for finding in fit.findings.faults] == ["never divided"]
    assert "is not known to work" in capsys.readouterr().out
    with pytest.raises(AttributeError, match="has no optimizers"):
        fit.begin(TORCH, read)


def test_a_framework_that_is_not_installed_is_said_where_it_is_used() -> None:
    base = framework_class("Callback", ("no_such_framework.callbacks",))
    assert base is object
    with pytest.raises(InputError, match="needs no_such_framework, which is not installed; install it with pip"):
        needs(base, "no_such_framework")


@pytest.mark.process
def test_the_checkup_brings_in_no_framework() -> None:
    script = "import sys, rislab.checkup.fit_watch; from rislab.checkup import *; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"lightning", "pytorch_lightning", "transformers", "skorch", "ignite", "accelerate"}.isdisjoint(loaded)


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_a_fit_that_ends_with_python_is_reported() -> None:
    script = """
import torch
from torch import nn
from rislab.checkup.fit_watch import FitWatch, Framework, TrainedLoop, TrainerSettings
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
fit = FitWatch("fit", "raise", None)
fit.begin(Framework("torch", (2, 0), (2, 99)), lambda: TrainerSettings([TrainedLoop(optimizer, model)]))
for _ in range(3):
    inputs = torch.randn(8, 4)
    nn.functional.mse_loss(model(inputs), inputs[:, :1]).backward()
    optimizer.step()
raise ZeroDivisionError
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    assert "rislab checkup of fit, 3 steps until an error ended it" in done.stdout
    assert "C2 never zeroed" in done.stdout
