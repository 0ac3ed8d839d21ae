"""Gradients are compared in scale and in direction."""

from __future__ import annotations

import math

import pytest
import torch

from rislab.checkup.recording.gradients import compare_gradients


def test_gradients_are_compared_in_scale_and_direction() -> None:
    r = torch.tensor([3.0, 4.0])
    assert compare_gradients(4 * r, r).alpha == pytest.approx(4.0)
    assert compare_gradients(4 * r, r).cosine == pytest.approx(1.0)
    turned = compare_gradients(torch.tensor([-4.0, 3.0]), r)
    assert (turned.alpha, turned.cosine) == (0.0, 0.0)
    assert turned.relative_error == pytest.approx(math.sqrt(2))
    assert math.isnan(compare_gradients(r, 0 * r).alpha)
