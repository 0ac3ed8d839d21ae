"""Warnings and tracebacks of a watched script are those of the script alone."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import rislab
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.script import run_script

START = """
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Linear(3, 1)
opt = torch.optim.SGD(net.parameters(), 0.1)
x = torch.randn(4, 3)

class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ValueError("no gradient")

def step(loss):
    opt.zero_grad()
    loss.backward()
    opt.step()

def closure():
    opt.zero_grad()
    loss = nn.functional.mse_loss(net(x), x[:, :1])
    loss.backward()
    1 / 0

for i in range(4):
    loss = nn.functional.mse_loss(net(x), x[:, :1])
    step(loss)
"""
ENDS = {
    "backward twice": "loss.backward()",
    "in a backward": "step(nn.functional.mse_loss(Bad.apply(net(x)), x[:, :1]))",
    "by autograd": "torch.autograd.backward(loss)",
    "in a loss": "nn.functional.cross_entropy(net(x), torch.tensor([0, 1, 0, 0]))",
    "in a forward": "net(x[:, :2])",
    "in a closure": "torch.optim.LBFGS(net.parameters()).step(closure)",
    "with its cause": "try:\n    net(x[:, :2])\nexcept RuntimeError as error:\n    raise KeyError('second') from error",
    "in a group": "try:\n    net(x[:, :2])\nexcept RuntimeError as error:\n    raise ExceptionGroup('both', [error])",
}


@pytest.mark.process
@pytest.mark.parametrize("name", ENDS)
def test_a_traceback_is_that_of_the_script_alone(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "script.py"
    path.write_text(START + ENDS[name] + "\n")
    alone = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert alone.returncode == 1
    if name == "in a closure":
        # Where a compiler was imported before, torch has one frame more around the step.
        command = [sys.executable, "-m", "rislab.cli", "checkup", str(path)]
        assert subprocess.run(command, capture_output=True, text=True, timeout=300).stderr == alone.stderr
    else:
        run_script(path)
        assert capfd.readouterr().err == alone.stderr


def shape_warning(outputs: Tensor) -> Tensor:
    return functional.l1_loss(outputs, torch.ones(4, 2))


def hook_warning(outputs: Tensor) -> Tensor:
    module = nn.Linear(1, 1)
    module.register_full_backward_hook(lambda *_: None)
    module(outputs.detach()).sum().backward()
    return outputs.sum()


def attribute_warning(outputs: Tensor) -> Tensor:
    return outputs.sum() if outputs.grad is None else outputs


def dimension_warning(outputs: Tensor) -> Tensor:
    return functional.softmax(outputs).sum()


@pytest.mark.parametrize("loss", [shape_warning, hook_warning, attribute_warning, dimension_warning])
@pytest.mark.parametrize("kind", ["watch", "process"])
def test_a_warning_names_the_line_of_the_loop(loss: Callable[[Tensor], Tensor], kind: str) -> None:
    def run(watched: bool) -> list[tuple[str, int, str]]:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        watch = rislab.watch(model, optimizer) if kind == "watch" else ProcessWatch()
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            if watched:
                watch.__enter__()
            for _ in range(2):
                optimizer.zero_grad()
                loss(model(torch.ones(4, 3))).backward()
                optimizer.step()
            if watched:
                watch.__exit__(None, None, None)
        return [(one.filename, one.lineno, str(one.message)) for one in shown]

    alone = run(False)
    assert alone and all(Path(file).name == "test_plain_stack.py" for file, _, _ in alone)
    assert run(True) == alone


def test_filters_of_a_module_hold_for_its_warnings() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings(record=True) as shown, rislab.watch(model, optimizer):
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", module=__name__.replace(".", r"\."))
        shape_warning(model(torch.ones(4, 3))).backward()
        optimizer.step()
    assert not shown


def test_the_checkup_itself_warns_of_nothing() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings(record=True) as shown, ProcessWatch() as watch:
        warnings.simplefilter("always")
        for rows in (4, 0, 4):
            inputs = torch.randn(rows, 3)
            functional.mse_loss(model(inputs), inputs[:, :1], reduction="sum").backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not shown
    assert not [one for one in watch.findings() if "Error" in one.evidence]
