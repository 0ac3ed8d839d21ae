"""Configurations: one declaration gives the check, the reading of words, the docstring and the round trip."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rislab.config import (
    Config,
    Declaration,
    choice,
    declarations,
    device,
    integer,
    interval,
    number,
    pair,
    part,
    plain,
    same,
    switch,
    text,
)
from rislab.data.scene_config import SceneConfig
from rislab.errors import InputError
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.config import TrainConfig
from rislab.training.streaming_config import LearningConfig


@dataclass(frozen=True)
class Inner(Config):
    """A part."""

    rate: float = number(0.5, 0.0, 1.0, "share", exclusive=True)


@dataclass(frozen=True)
class Sample(Config):
    """One field of each kind."""

    count: int = integer(3, 1, 9, "things", unit="pieces")
    rate: float | None = number(0.25, 0.0, 1.0, "share; none takes all", exclusive=True, optional=True)
    mode: str = choice("fast", ("fast", "slow"), "how")
    bits: int = choice(8, (8, 16), "of a number")
    both: tuple[str, ...] = choice(("fast",), ("fast", "slow"), "which", many=True)
    some: tuple[str, ...] = text((), "names", many=True, empty=True)
    on: bool = switch(True, "whether")
    title: str = text("", "shown above")
    device: str = device()
    shape: tuple[int, int] = pair((2, 3), 1, 9, "(rows, columns)")
    span: tuple[float, float] = interval((0.0, 1.0), -5.0, 5.0, "drawn from", unit="m")
    inner: Inner = part(Inner, Inner, "of the inside")


KINDS = declarations(Sample)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "count": st.integers(1, 9),
    "rate": st.none() | st.floats(0.0, 1.0, exclude_min=True),
    "mode": st.sampled_from(["fast", "slow"]),
    "bits": st.sampled_from([8, 16]),
    "both": st.lists(st.sampled_from(["fast", "slow"]), min_size=1, unique=True),
    "some": st.lists(st.text(), unique=True),
    "on": st.booleans(),
    "title": st.text(),
    "device": st.just("cpu"),
    "shape": st.lists(st.integers(1, 9), min_size=2, max_size=2),
    "span": st.floats(-5, 5) | st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted),
    "inner": st.fixed_dictionaries({"rate": st.floats(0.0, 1.0, exclude_min=True)}),
}


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(fields=st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_allowed_comes_back_from_yaml(fields: dict[str, Any]) -> None:
    config = Sample.from_dict(fields)
    again = Sample.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict())))
    assert again == config and hash(again) == hash(config)
    assert config.changed() == config
    assert Sample().changed(**fields) == config


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_words_say_what_they_stand_for(data: st.DataObject) -> None:
    """Every allowed value of a kind that the command line knows is written as a word and read again."""
    for name in ("count", "rate", "mode", "bits", "on", "title", "device"):
        value = data.draw(VALUES[name])
        assert KINDS[name].read(str(value)) == value


@pytest.mark.parametrize(
    ("name", "word", "allowed"),
    [
        ("count", "2.5", "a whole number"),
        ("count", "none", "a whole number"),
        ("rate", "much", "a number"),
        ("bits", "eight", "a number"),
        ("on", "perhaps", "true or false"),
    ],
)
def test_a_word_that_is_no_such_value_is_named(name: str, word: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{word}'; allowed: {allowed}"):
        KINDS[name].read(word)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "count is 0; allowed: a whole number in [1, 9]"),
        ({"count": 10}, "count is 10; allowed: a whole number in [1, 9]"),
        ({"count": 2.0}, "count is 2.0"),
        ({"count": True}, "count is True"),
        ({"count": None}, "count is None"),
        ({"rate": 0.0}, "rate is 0.0; allowed: a number in (0, 1]"),
        ({"rate": math.nan}, "rate is nan"),
        ({"mode": "Fast"}, "mode is 'Fast'; allowed: 'fast', 'slow'"),
        ({"bits": 8.0}, "bits is 8.0; allowed: 8, 16"),
        ({"both": []}, "both is (); allowed: a list of fast, slow, at least one"),
        ({"both": "fast"}, "both is 'fast'; allowed: a list"),
        ({"both": ["fast", "fast"]}, "allowed: each value once"),
        ({"both": ["fast", "late"]}, "both is 'late'; allowed: 'fast', 'slow'"),
        ({"on": 1}, "on is 1; allowed: False, True"),
        ({"title": 3}, "title is 3; allowed: a text"),
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"shape": [2]}, "shape is (2,); allowed: a pair of whole numbers"),
        ({"shape": 4}, "shape is 4; allowed: a pair of whole numbers"),
        ({"shape": [2, 3.0]}, "shape is 3.0; allowed: a whole number in [1, 9]"),
        ({"span": [1.0, 0.0]}, "allowed: a pair whose first number is not the larger one"),
        ({"span": [0.0, 6.0]}, "span is 6.0; allowed: a number in [-5, 5]"),
        ({"span": [0.0]}, "span is (0.0,); allowed: a number or a pair"),
        ({"span": True}, "span is True; allowed: a number or a pair"),
        ({"inner": 3}, "inner is a int; allowed: a Inner or its fields"),
        ({"inner": {"rate": 2}}, "rate is 2; allowed: a number in (0, 1]"),
        ({"inner": {"speed": 2}}, "speed is not a field of Inner; allowed: rate"),
        ({"length": 3}, "length is not a field of Sample; allowed: count, rate"),
        ({3: 3}, "3 is not a field of Sample"),
        ([1], "Sample is given as a list; allowed: a mapping"),
    ],
)
def test_what_is_not_allowed_is_named(fields: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Sample.from_dict(fields)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_limit_is_never_shown_as_the_value_that_it_refuses() -> None:
    with pytest.raises(InputError, match=r"ema is 1.0; allowed: a number in \[0, 0.999999999\]"):
        TrainConfig(ema=1.0)
    assert declarations(TrainConfig)["ema"].allowed == "≥ 0, ≤ 0.999999999"


def test_a_required_field_that_is_missing_is_named() -> None:
    @dataclass(frozen=True)
    class Needy(Config):
        """It has a field without a default."""

        name: str
        count: int = integer(1, 0, 3, "things")

    assert Needy.from_dict({"name": "a"}).count == 1
    with pytest.raises(InputError, match="Needy lacks name; allowed: a mapping with name"):
        Needy.from_dict({"count": 2})


def test_fields_that_do_not_go_together_are_refused_after_each_alone() -> None:
    @dataclass(frozen=True)
    class Ordered(Config):
        """Two numbers in order."""

        low: int = integer(0, 0, 9, "smaller one")
        high: int = integer(9, 0, 9, "larger one")

        def check(self) -> None:
            if self.low > self.high:
                raise InputError(f"low is {self.low}; allowed: at most high, {self.high}")

    with pytest.raises(InputError, match="low is 8; allowed: at most high, 7"):
        Ordered(8, 7)
    with pytest.raises(InputError, match="high is -1; allowed: a whole number"):
        Ordered(8, -1)


def test_the_docstring_says_what_was_declared() -> None:
    assert Sample.__doc__ is not None
    lines = Sample.__doc__.splitlines()
    assert lines[:3] == ["One field of each kind.", "", "Args:"]
    assert "    count: things (≥ 1, ≤ 9 pieces)." in lines
    assert "    rate: share; none takes all (> 0, ≤ 1)." in lines
    assert "    mode: how (fast, slow)." in lines
    assert "    title: shown above." in lines
    assert len(lines) == 3 + len(KINDS)

    class Heir(Sample):
        """It declares nothing of its own."""

    assert Heir.__doc__ == "It declares nothing of its own."


def test_a_field_of_another_configuration_differs_only_in_what_is_said() -> None:
    @dataclass(frozen=True)
    class Other(Config):
        """Fields of Sample."""

        count: int = same(Sample, "count")
        rate: float | None = same(Sample, "rate", None, help="of it")
        inner: Inner = same(Sample, "inner")

    assert Other() == Other(3, None, Inner())
    assert declarations(Other)["count"] == KINDS["count"]
    assert declarations(Other)["rate"] == Declaration("number", "of it", "", 0.0, 1.0, exclusive=True, optional=True)
    with pytest.raises(InputError, match="count is 10"):
        Other(count=10)
    with pytest.raises(KeyError, match="length"):
        same(Sample, "length")


def test_configurations_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Sample().count = 4  # type: ignore[misc]
    with pytest.raises(InputError, match="length is not a field"):
        Sample().changed(length=4)
    assert Sample().changed(span=2).span == (2, 2)


def test_numbers_of_numpy_become_those_of_python() -> None:
    values = plain({"a": np.int64(3), "b": [np.float64(0.5), True, None], "c": (1, "x")})
    assert values == {"a": 3, "b": [0.5, True, None], "c": [1, "x"]}
    assert [type(value) for value in (values["a"], *values["b"])] == [int, float, bool, type(None)]


def test_a_file_holds_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "sample.yaml"
    path.write_text("count: 7\nspan: [0, 2]\ninner: {rate: 1}")
    assert Sample.from_file(path) == Sample(count=7, span=(0, 2), inner=Inner(1))
    path.write_text("[1]")
    with pytest.raises(InputError, match="holds no mapping; allowed: fields of Sample"):
        Sample.from_file(path)


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.tuples(st.floats()),
    st.just(10**400), st.dictionaries(st.text(), st.integers()), st.just(np.arange(3)), st.just(np.float64(0.01)),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from([TrainConfig, SceneConfig, OverfitConfig, LearningConfig]), value=ANYTHING, data=st.data())
def test_no_field_value_gets_past_with_another_error(kind: Any, value: object, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from([entry.name for entry in fields(kind)]))
    try:
        config = kind.from_dict({field: value})
    except InputError as error:
        assert "\n" not in str(error)
    else:
        again = config.to_dict()
        assert kind.from_dict(yaml.safe_load(yaml.safe_dump(again))) == config


def test_a_configuration_takes_numbers_of_numpy() -> None:
    """As in a loop over np.arange(); YAML and JSON know no others."""
    config = SceneConfig.preset("classroom", snr_db=np.int64(5), sources=np.int64(2), rician_factor=np.float32(0.5))
    assert config == SceneConfig.preset("classroom", snr_db=5, sources=2, rician_factor=0.5)
    assert yaml.safe_load(yaml.safe_dump(config.to_dict())) == config.to_dict()
    for wrong in (np.bool_(True), np.array([1, 2]), np.float64("nan")):
        with pytest.raises(InputError, match="rician_factor is"):
            SceneConfig.preset("classroom", rician_factor=wrong)
