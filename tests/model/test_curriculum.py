"""The curriculum: its phases share the epochs."""

from __future__ import annotations

import pytest

from rislab.errors import InputError
from rislab.model import curriculum


def test_three_phases_share_the_epochs_in_order() -> None:
    names = [curriculum.loss_weights_at("three-phase", epoch, 30).name for epoch in range(1, 31)]
    assert names == ["phase=0"] * 10 + ["phase=1"] * 10 + ["phase=2"] * 10
    assert curriculum.loss_weights_at("three-phase", 1, 1).name == "phase=0"
    assert curriculum.loss_weights_at("three-phase", 2, 2).name == "phase=1"
    assert curriculum.loss_weights_at("no-curriculum", 7, 30) == curriculum.LossWeights("no-curriculum", nmse=1.0)
    with pytest.raises(InputError, match="curriculum is 'four-phase'"):
        curriculum.loss_weights_at("four-phase", 1, 1)
