"""A search space: what is typed comes back from a file, and what cannot be searched is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rislab.errors import InputError
from rislab.tuning.space import Range, parse_space, read_space, space_to_dict


def test_what_is_typed_comes_back_from_a_file(tmp_path: Path) -> None:
    typed = parse_space(["lr=1e-4:1e-2:log", "blend=0:0.5", "epochs=2:8", "micro_batch=8,16", "precision=fp32,bf16"])
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space_to_dict(typed)))
    assert read_space(tmp_path / "space.yaml") == typed
    assert typed["epochs"] == Range(2, 8, integer=True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "is empty"),
        (["lr"], "search holds 'lr'"),
        (["rate=1:2"], "rate is not a field"),
        (["seed=1,2"], "seed is not a field"),
        (["lr=0.01:0.001"], "high of lr"),
        (["lr=0:1:log"], "low of lr on a logarithmic scale"),
        (["lr=nan:1"], "low of lr"),
        (["lr=1e-3"], "at least two values"),
        (["lr=1e-3:1e-2:cubic"], "lr is"),
        (["micro_batch=8,8"], "twice"),
        (["micro_batch=8,x"], "micro_batch holds 'x'"),
        (["micro_batch=0:8"], "micro_batch is 0"),
        (["blend=0:2"], "blend is 2"),
        (["precision=fp32,fp7"], "precision is 'fp7'"),
        (["design=1:2"], "design is a range"),
        (["lr=1e-4:1e-3", "lr=1:2"], "names lr twice"),
    ],
)
def test_a_space_that_cannot_be_searched_is_named(texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_space(texts)


@given(st.text(max_size=30), st.lists(st.text(max_size=20), max_size=3))
@example("\x1e", [":", ":"])
@settings(max_examples=300, deadline=None)
def test_no_text_is_more_than_refused(name: str, values: list[str]) -> None:
    try:
        parse_space([f"{name}={','.join(values)}"])
    except InputError as error:
        assert len(str(error).splitlines()) == 1
