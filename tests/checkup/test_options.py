"""One declaration of the options: what watch() refuses, the command line refuses in the same words."""

from __future__ import annotations

import pytest
import torch

import rislab
from rislab.checkup.options import OPTIONS, check_options
from rislab.cli.checkup import CheckupConfig
from rislab.cli.main import main
from rislab.config import declarations
from rislab.errors import InputError

WRONG = {"accumulation_steps": 0, "mean": "rows", "clip_norm": 0.0, "every": 0}


@pytest.mark.parametrize("name", WRONG)
def test_watch_and_the_command_line_refuse_in_the_same_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(InputError) as error:
        rislab.watch(model, torch.optim.SGD(model.parameters(), 0.1), **{name: WRONG[name]})
    assert main(["checkup", f"--{name.replace('_', '-')}", str(WRONG[name]), "train.py"]) == 2
    assert capsys.readouterr().err == f"rislab: {error.value}\n"


def test_the_command_line_declares_nothing_of_its_own() -> None:
    declared = declarations(CheckupConfig)
    shared = set(OPTIONS) & set(declared)
    assert shared == set(OPTIONS)
    for name in shared:
        own, option = declared[name], OPTIONS[name]
        # On the command line, what is not given is left out, and a default of its own may be said after a semicolon.
        choices = tuple(filter(None, option.choices))
        assert (own.kind, own.low, own.high) == (option.kind, option.low, option.high)
        assert own.help.partition("; else ")[0] == option.help
        assert own.choices == choices


def test_none_is_allowed_where_something_is_inferred() -> None:
    check_options(accumulation_steps=None, clip_norm=None, every=None, epochs=None)
    with pytest.raises(InputError, match="^mean is None; allowed: 'samples', 'batches'$"):
        check_options(mean=None)
