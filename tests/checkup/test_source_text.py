"""What files say of a scheduler: that nothing steps it is certain only where nothing else is done with it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from rislab.checkup.process_watch import ProcessWatch

HEAD = """
import torch
from torch.optim.lr_scheduler import StepLR


class Base:
    pass


model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
LOOP = """
for step in range(24):
    optimizer.zero_grad()
    model(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()
"""
CERTAIN = {
    "alone": "scheduler = StepLR(optimizer, 5)",
    "looked at": "scheduler = StepLR(optimizer, 5)\nprint(scheduler.get_last_lr(), scheduler.state_dict())",
    "not called": "scheduler = StepLR(optimizer, 5)\nfor _ in range(2):\n    scheduler.step",
    "an attribute": "class Own:\n    def __init__(self):\n        self.schedule = StepLR(optimizer, 5)\nown = Own()",
}
UNCERTAIN = {
    "in a branch": "scheduler = StepLR(optimizer, 5)\nif model is None:\n    scheduler.step()",
    "handed on": "scheduler = StepLR(optimizer, 5)\nparts = [scheduler]",
    "by its name": "class Own:\n    pass\nown = Own()\nown.schedule = StepLR(optimizer, 5)\ngetattr(own, 'schedule')",
    "of a class that may step it": (
        "class Own(Base):\n    def __init__(self):\n        self.schedule = StepLR(optimizer, 5)\nown = Own()"
    ),
    "never bound": "parts = [StepLR(optimizer, 5)]",
    "one of two": "one = StepLR(optimizer, 5)\nif model is None:\n    two = StepLR(optimizer, 5)",
}


@pytest.mark.parametrize("case", [*CERTAIN, *UNCERTAIN])
def test_a_scheduler_that_nothing_steps(case: str, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(HEAD + {**CERTAIN, **UNCERTAIN}[case] + LOOP)
    with ProcessWatch() as process:
        runpy.run_path(str(script))
    found = [one.severity for one in process.findings() if one.name == "scheduler never stepped"]
    assert found == ["fault" if case in CERTAIN else "warning"]


BATCHES = """
for epoch in range({epochs}):
    for batch in range(16):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        {ticks}
    {late}
"""


@pytest.mark.parametrize(
    ("falls", "epochs", "within", "expected"),
    [
        ("MultiStepLR(optimizer, [6, 9], 0.05)", "10", True, "fault"),
        ("StepLR(optimizer, 4, 0.02)", "EPOCHS", True, "fault"),
        ("MultiStepLR(optimizer, [12, 20], 0.05)", "10", True, "warning"),  # counted in steps
        ("MultiStepLR(optimizer, [6, 9], 0.05)", "int('10')", True, "warning"),
        ("MultiStepLR(optimizer, [6, 9], 0.05)", "10", False, ""),
    ],
)
def test_falls_of_epochs_in_batches(falls: str, epochs: str, within: bool, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    tick = "schedule.step()"
    loop = BATCHES.format(epochs=epochs, ticks=tick if within else "pass", late="pass" if within else tick)
    text = HEAD.replace("import StepLR", "import MultiStepLR, StepLR") + f"EPOCHS = 10\nschedule = {falls}\n"
    script.write_text(text + loop)
    with ProcessWatch() as process:
        runpy.run_path(str(script))
    found = [one.severity for one in process.findings() if one.name == "schedule ends early"]
    assert found == ([expected] if expected else [])
