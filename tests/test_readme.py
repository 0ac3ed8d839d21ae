"""The README: its commands are commands, its Python runs, its numbers are those that were measured or counted."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.run
from torch import nn

import rislab
from rislab.cli.main import parser_of
from rislab.errors import InputError
from rislab.faults.catalogue import FAMILIES, FAULTS
from rislab.model import pretrained
from rislab.sanity.overfit_config import OverfitConfig
from rislab.sanity.overfit_ladder import ladder
from tests.readme import README, SOURCE, measured_part, numbers_of, refreshed

ROOT, TEXT = README.parent, README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
TARGETS = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
# Blocks that a test elsewhere runs, by a word of theirs.
ELSEWHERE = {
    "mark.rislab": "checkup/test_pytest_plugin.py",
    "checkup.loggers": "checkup/test_loggers.py",
    "checkup.lightning": "checkup/test_trainers_of_the_readme.py",
    "checkup.transformers": "checkup/test_trainers_of_the_readme.py",
    "checkup.skorch": "checkup/test_trainers_of_the_readme.py",
    "checkup.ignite": "checkup/test_trainers_of_the_readme.py",
    "accelerator=accelerator": "checkup/test_trainers_of_the_readme.py",
    "jobs:": "test_integrations.py",
    "repos:": "test_integrations.py",
    "%load_ext": "checkup/test_notebook.py",
}
WORDS = {"eleven": 11, "eighteen": 18, "five": 5, "ninety-four": 94}


def commands() -> Iterator[str]:
    """Those of the blocks and of the text; "…" stands for what a reader fills in, and such lines are no commands."""
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", TEXT, flags=re.M | re.S))
    for line in lines:
        for command in shlex.join(shlex.split(line, comments=True)).split(" '&&' ") if "'" not in line else []:
            if re.match(r"(rislab|make|python|torchrun) ", command) and "…" not in command:
                yield command


COMMANDS = sorted(set(commands()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_one(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word and word not in ("-C", "rislab")]
        assert set(targets) <= set(TARGETS)
        return
    if words[0] != "rislab":
        module = words[words.index("-m") + 1]
        assert find_spec(module)
        if module != "rislab.cli":
            return
        if words[0] == "torchrun":
            # It takes an option behind the module for the beginning of one of its own.
            assert torch.distributed.run.parse_args(words[1:]).training_script == module
        words = words[words.index("-m") + 1 :]
    own = words[1 : words.index("--")] if "--" in words else words[1:]
    if own not in (["--help"], ["checkup"], ["grade"], ["sweep"]):
        parser_of(own[0]).parse_args(own[1:])


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 40


def given() -> dict[str, Any]:
    """What the examples take from a reader."""
    torch.manual_seed(0)
    model, loss_fn = nn.Sequential(nn.Linear(4, 1)), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(x := torch.randn(8, 4), x.sum(1, keepdim=True)) for _ in range(4)]
    rng = np.random.default_rng(0)

    def train(*unused: Any) -> list[float]:
        losses = []
        for inputs, targets in batches[:3]:
            losses.append(loss_fn(model(inputs), targets))
            (losses[-1] / 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        return [float(sum(losses)) / 3]

    return {
        "rislab": rislab, "model": model, "optimizer": optimizer, "loss_fn": loss_fn, "scaler": None,
        "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0), "batches": batches, "train": train,
        "fresh": batches[3:], "codes": np.exp(2j * np.pi * rng.random((12, 256))),
        "channel": rng.standard_normal((2, 256)) + 0j, "snapshots": rng.standard_normal((12, 2)) + 0j,
    }  # fmt: skip


def example(block: str) -> str:
    """The same with fewer scenes and epochs, and without the dots for what a reader fills in."""
    smaller = {
        "512, seed": "32, seed",
        "64, seed": "2, seed",
        "scenes=64": "scenes=64, epochs=1",
        "(49, 25, 10)": "(13, 7, 3)",
    }
    smaller |= {"TrainConfig(": "TrainConfig(epochs=1, ", "train(...)": "train()"}
    for large, small in smaller.items():
        block = block.replace(large, small)
    return block


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_is_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, block = BLOCKS[number]
    if words := [word for word in ELSEWHERE if word in block]:
        assert "README.md" in (ROOT / "tests" / ELSEWHERE[words[0]]).read_text()
    elif "await panel" in block:
        # Notebooks run panels and await them; here it is valid where they stand.
        compile(block, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    elif kind == "python":
        monkeypatch.chdir(tmp_path)
        exec(compile(example(block), "README.md", "exec"), given())
    else:
        # Commands, the rooms, and a finding of the checkup, whose words are those of its registry.
        assert kind == ""
        assert any(line.startswith(("rislab", "make", "pip", "!git")) for line in block.splitlines()) or re.match(
            r"library  data|FAULT   C1 divided twice", block
        )


def test_numbers_are_those_of_their_json() -> None:
    """`make readme` would change nothing, and no block of the measured part has a number that nothing backs."""
    assert refreshed(TEXT) == TEXT
    for block in measured_part(TEXT).strip().split("\n\n"):
        if any(numbers_of(line) for line in block.splitlines()):
            assert block.startswith("<!-- reports/readme.json: "), block[:80]
    for name, entry in json.loads(SOURCE.read_text()).items():
        assert entry["command"] and f"readme.json: {name} " in TEXT, name
        for command in entry["command"].split("; "):
            test_a_command_of_the_readme_is_one(command)


def test_a_changed_number_is_put_right() -> None:
    other = TEXT.replace("| 0.920 |", "| 0.990 |", 1)
    assert other != TEXT and refreshed(other) == TEXT


def test_what_shows_that_it_is_secure_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    assert len(named) > 10 and all((ROOT / name).exists() for name in named)


def test_what_is_counted_in_words() -> None:
    text = " ".join(TEXT.lower().split())
    probes = import_module("rislab.checkup.probes.suite")
    with pytest.raises(InputError, match="allowed: ") as refused:
        next(ladder(OverfitConfig(scenes=64), only=["none"]))
    counted = {
        "climbs {} checks": str(refused.value).split("allowed: ")[1].count(",") + 1,
        "**faults.** {}, in": len(FAULTS),
        "in {} families": len(FAMILIES),
        "on copies by {} probes": len(probes.PROBES),
    }
    for phrase, count in counted.items():
        before, after = phrase.split("{}")
        match = re.search(re.escape(before) + r"([\w-]+)" + re.escape(after), text)
        assert match and WORDS.get(match[1], match[1]) == count, (phrase, count)
    model = pretrained.load("shipped", "full")[0]
    assert round(sum(parameter.numel() for parameter in model.parameters()), -3) == 19_000 and "19 000 numbers" in text
