"""A weight decay that has the value of the rate is named, and one that is chosen is not."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (torch.optim.Adam, {"weight_decay": 0.02}, True),
        (torch.optim.RMSprop, {"weight_decay": 0.05}, True),
        (torch.optim.Adam, {"weight_decay": 0.02, "lr": 0.003}, False),
        (torch.optim.Adam, {"weight_decay": 1e-4}, False),
        (torch.optim.AdamW, {"weight_decay": 0.05}, False),
    ],
)
def test_a_decay_in_place_of_the_rate(kind: Any, options: dict[str, float], expected: bool) -> None:
    model = nn.Linear(3, 1)
    with ProcessWatch() as process:
        optimizer = kind(model.parameters(), **options)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
    assert any(one.name == "weight decay in place of the rate" for one in process.findings()) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("weight_decay=lr", "fault"),
        ("weight_decay=config['learning_rate']", "fault"),
        ("weight_decay=decay", "warning"),
        ("weight_decay=0.02", "warning"),
        ("lr=lr, weight_decay=decay", ""),
    ],
)
def test_a_decay_that_is_given_a_rate_by_name_is_a_fault(given: str, expected: str, tmp_path: Path) -> None:
    text = f"""
import torch
lr = decay = 0.02
config = {{"learning_rate": lr}}
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.Adam(model.parameters(), {given})
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()
"""
    script = tmp_path / "loop.py"
    script.write_text(text)
    with ProcessWatch() as process:
        runpy.run_path(str(script))
    found = [one.severity for one in process.findings() if one.name == "weight decay in place of the rate"]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize("place", ["defaults", "attribute", "multiples", "groups", "remembered"])
def test_a_rate_that_no_step_reads(place: str) -> None:
    model = nn.Linear(3, 1)
    with ProcessWatch() as process:
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(6):
            rate = 0.1 * 0.5 ** (step // 2)
            if place == "defaults":
                optimizer.defaults["lr"] = rate
            elif place in ("attribute", "multiples"):
                optimizer.lr = rate
                optimizer.param_groups[0]["lr"] = 0.1 if place == "attribute" else rate / 3
            else:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.lr = 0.2 if place == "remembered" else rate
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
    named = [(one.severity, one.name) for one in process.findings() if one.severity != "note"]
    expected = {"defaults": "fault", "attribute": "fault", "multiples": "warning"}
    assert named == ([(expected[place], "rate that no group has")] if place in expected else [])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("one rate", "fault"),
        ("a cycle of one", "warning"),
        ("scaled", ""),
        ("alike from the start", ""),
        ("alike later", ""),
        ("searched", ""),
    ],
)
def test_rates_of_groups_that_no_step_is_taken_at(kind: str, expected: str) -> None:
    one, two = nn.Linear(3, 4), nn.Linear(4, 1)

    def make() -> torch.optim.Optimizer:
        rates = (0.01, 0.01) if kind == "alike from the start" else (0.001, 0.01)
        groups = [{"params": part.parameters(), "lr": rate} for part, rate in zip((one, two), rates, strict=True)]
        return torch.optim.SGD(groups)

    with ProcessWatch() as process:
        for trial in range(2 if kind == "searched" else 1):
            optimizer = make()
            first = [group["lr"] for group in optimizer.param_groups]
            scheduler = None
            if kind == "a cycle of one":
                scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12)
            for step in range(12):
                for group, rate in zip(optimizer.param_groups, first, strict=True):
                    if kind in ("one rate", "alike from the start") or (kind == "alike later" and step > 2):
                        group["lr"] = 0.01 * 0.9**step
                    elif kind == "scaled":
                        group["lr"] = rate * 0.9**step
                    elif kind == "searched" and not trial:
                        group["lr"] = 1e-5 * 2**step
                optimizer.zero_grad()
                two(one(torch.randn(8, 3))).square().mean().backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
    found = [one.severity for one in process.findings() if one.name == "one rate for all groups"]
    assert found == [expected] * bool(expected)
