"""Each test of the checkup begins with few objects: a watch goes through all that are alive and not frozen."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def few_objects() -> None:
    """What the tests before have left is not looked through again and again."""
    gc.freeze()
