"""What the commands share: options from declarations, packages that are missing, JSON that any reader takes."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass

import pytest

from rislab.cli import common, terminal
from rislab.config import Config, choice, declarations, integer, number
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.streaming_config import LearningConfig


@dataclass(frozen=True)
class Dishes(Config):
    """A configuration of its own."""

    plates: int = integer(4, 1, 9, "how many, 100 % clean")
    weight: float | None = number(0.5, 0, 2, "of each", unit="kg", exclusive=True, optional=True)
    colour: str = choice("white", ("white", "blue"), "of all")


def parsed(words: list[str], **options: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    common.add_fields(parser, Dishes, **options)  # type: ignore[arg-type]
    return parser.parse_args(words)


def test_options_have_type_default_and_limits_of_the_declaration(capsys: pytest.CaptureFixture[str]) -> None:
    assert Dishes(**common.fields_given(parsed([]), Dishes)) == Dishes()
    given = parsed(["--plates", "7", "--weight", "none", "--colour", "blue"])
    assert Dishes(**common.fields_given(given, Dishes)) == Dishes(7, None, "blue")
    with pytest.raises(SystemExit):
        parsed(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--plates N how many, 100 % clean (≥ 1, ≤ 9; default 4)" in text
    assert "--weight X of each (> 0, ≤ 2 kg; default 0.5)" in text
    assert "of all (white, blue; default white)" in text
    with pytest.raises(SystemExit):
        parsed(["--plates", "many"])
    assert "argument --plates: 'many'; allowed: a whole number" in capsys.readouterr().err


def test_an_optional_option_overrides_only_if_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    file = Dishes(plates=2, colour="blue")
    given = parsed(["--weight", "1"], optional=True, defaults=file)
    assert file.changed(**common.fields_given(given, Dishes)) == Dishes(2, 1.0, "blue")
    with pytest.raises(SystemExit):
        parsed(["--help"], optional=True, defaults=file)
    assert "default 2)" in capsys.readouterr().out


def test_names_choose_the_fields() -> None:
    given = parsed([], names=("plates",))
    assert vars(given) == {"plates": 4}
    assert common.fields_given(given, Dishes, ("plates",)) == {"plates": 4}


@pytest.mark.parametrize("config", [OverfitConfig, LearningConfig])
def test_every_field_of_a_command_is_an_option(config: type[Config]) -> None:
    parser = argparse.ArgumentParser()
    common.add_fields(parser, config)
    assert set(vars(parser.parse_args([]))) == set(declarations(config))
    assert config(**common.fields_given(parser.parse_args([]), config)) == config()


def test_json_holds_no_name_of_a_number() -> None:
    value = common.strict_json({"a": [1, (math.nan, -math.inf)], "b": True})
    assert json.dumps(value, allow_nan=False) == '{"a": [1, ["nan", "-inf"]], "b": true}'


def test_progress_needs_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that began with a closed standard error (2>&-, as services do) has None for it."""
    monkeypatch.setattr(sys, "stderr", None)
    progress = terminal.Progress()
    progress.show("step 1")
    progress.clear()
