"""What the ladder trains: bad fields are named."""

from __future__ import annotations

import pytest

from rislab.errors import InputError
from rislab.sanity.overfit_config import OverfitConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "huge"}, "preset is 'huge'; allowed: 'full', 'classroom'"),
        ({"scenes": 63}, "scenes is 63; allowed: a whole number in [64,"),
        ({"micro_batch": 513}, "micro_batch is 513"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"accumulation_steps": 0}, "accumulation_steps is 0"),
        ({"lr": 0.0}, "lr is 0.0; allowed: a number in (0,"),
        ({"sceens": 3}, "sceens is not a field of OverfitConfig"),
    ],
)
def test_bad_ladder_fields_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        OverfitConfig.from_dict(fields)
    assert message in str(caught.value)
