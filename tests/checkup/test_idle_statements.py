"""Methods that are named and not called, and results that are dropped, are named; what does something is not."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from rislab.checkup.process_watch import ProcessWatch

LOOP = """
import types
import torch
names = types.SimpleNamespace(data=set())
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def evaluate(model):
    {evaluate}
    with torch.no_grad():
        return model(torch.randn(8, 3)).square().mean()
def never(model):
    model.eval
for step in range(3):
    optimizer.zero_grad()
    loss = model(torch.randn(8, 3)).square().mean()
    loss.backward()
    {before}
    optimizer.step()
    if step > 5:
        optimizer.zero_grad
    evaluate(model)
    model.train()
"""


@pytest.mark.parametrize(
    ("evaluate", "before", "expected"),
    [
        ("model.eval", "pass", "model.eval is named and not called"),
        ("model.eval()", "optimizer.zero_grad", "optimizer.zero_grad is named"),
        ("model.eval()", "loss / 4", "the result of loss / 4 is not kept"),
        ("model.eval()", "optimizer.param_groups[0]['lr'] * 0.5", "* 0.5 is not kept"),
        ("model.eval()", "[p.grad for p in model.parameters()][0].clamp(-1, 1)", ""),
        ("model.eval()", "for p in model.parameters(): p.grad.clamp(-1, 1)", "p.grad.clamp(-1, 1) gives a new tensor"),
        ("model.eval()", "for p in model.parameters(): torch.nan_to_num(p.grad)", "gives a new tensor"),
        ("model.eval()", "for p in model.parameters(): torch.nan_to_num(p.grad, out=p.grad)", ""),
        ("model.eval()", "for p in model.parameters(): p.grad.clamp_(-1, 1)", ""),
        ("model.eval()", "for p in model.parameters(): p.data.mul(0.9).add(p.detach(), alpha=0.1)", "p.data.mul(0.9)"),
        ("model.eval()", "for p in model.parameters(): p.data.mul_(0.9).add_(p.detach(), alpha=0.1)", ""),
        ("model.eval()", "for p in model.parameters(): p.data.mul(0.9).add_(p.detach())", ""),
        ("model.eval()", "names.data.add(step)", ""),
        ("model.eval()", "loss /= 4", ""),
    ],
)
def test_a_statement_that_does_nothing(evaluate: str, before: str, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(LOOP.format(evaluate=evaluate, before=before))
    with ProcessWatch() as process:
        runpy.run_path(str(script))
    found = [one for one in process.findings() if one.name == "statement that does nothing"]
    assert len(found) == bool(expected)
    assert all(expected in one.evidence and one.severity == "fault" for one in found)
    lines = script.read_text().splitlines()
    wrong = evaluate if "eval" in expected else before
    assert [one.where for one in found] == [f"{script}:{lines.index(f'    {wrong}') + 1}"] * len(found)


def test_the_last_expression_may_be_shown(tmp_path: Path) -> None:
    """A notebook shows it, and nothing comes after it."""
    script = tmp_path / "cell.py"
    script.write_text(LOOP.format(evaluate="model.eval()", before="pass") + "loss / 4\n")
    with ProcessWatch() as process:
        runpy.run_path(str(script))
    assert "statement that does nothing" not in {one.name for one in process.findings()}


CLIPPING = """
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def clip(parameters, bound):
    {first}
    for p in parameters:
        if p.grad is not None:
            {clamp}
for step in range(3):
    optimizer.zero_grad()
    model(torch.randn(8, 3)).square().mean().backward()
    {call}
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("first", "clamp", "call", "expected"),
    [
        ("bound = abs(bound)", "p.grad.clamp(-bound, bound)", "clip(model.parameters(), 1)", True),
        ("bound = abs(bound)", "p.grad.clamp_(-bound, bound)", "clip(model.parameters(), 1)", False),
        ("bound = abs(bound)", "p.grad.clamp(-bound, bound)", "bound = 1", False),
        ("if bound > 0: return", "p.grad.clamp(-bound, bound)", "clip(model.parameters(), 1)", False),
    ],
    ids=["dropped", "in place", "never called", "never reached"],
)
def test_a_function_that_is_called_is_read_too(
    first: str, clamp: str, call: str, expected: bool, tmp_path: Path
) -> None:
    script = tmp_path / "loop.py"
    script.write_text(CLIPPING.format(first=first, clamp=clamp, call=call))
    with ProcessWatch() as process:
        runpy.run_path(str(script))
    found = [one.severity for one in process.findings() if one.name == "statement that does nothing"]
    assert found == ["fault"] * expected


EPISODES = """
import copy
import torch
torch.manual_seed(0)
network = torch.nn.Linear(3, 2)
target = copy.deepcopy(network)
optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
def sample():
    return torch.randn(8, 3), torch.randint(0, 2, (8,)), torch.rand(8), torch.randn(8, 3), (torch.rand(8) < 0.1).float()
class world:
    step = staticmethod(sample)
def update(batch):
    {unpacked}
    with torch.no_grad():
        following = target(after).amax(1)
        {used}
        aim = reward + 0.9 * following
    loss = (network(state)[range(8), action] - aim).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for _ in range(3):
    update(sample())
"""


@pytest.mark.parametrize(
    ("unpacked", "used", "expected"),
    [
        ("state, action, reward, after, done = batch", "pass", "end of episodes never read"),
        ("(state, action, reward, after, not_done) = sample()", "pass", "end of episodes never read"),
        ("state, action, reward, after, attention_mask = batch", "pass", "mask never read"),
        ("state, action, reward, after, done = batch", "following = (1 - done) * following", ""),
        ("state, action, reward, after, done = batch", "del done", ""),
        ("state, action, reward, after, _ = batch", "pass", ""),
        ("state, action, reward, after = batch[:4]; done = False", "pass", ""),
        ("state, action, reward, after, done = world.step()", "pass", ""),
    ],
    ids=["done", "not done", "mask", "read", "dropped", "underscore", "no part of a batch", "of an environment"],
)
def test_a_part_of_a_batch_that_nothing_reads(unpacked: str, used: str, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(EPISODES.format(unpacked=unpacked, used=used))
    with ProcessWatch() as process:
        runpy.run_path(str(script))
    found = [(one.name, one.severity) for one in process.findings() if one.name.endswith("never read")]
    assert found == [(expected, "warning")] * bool(expected)
