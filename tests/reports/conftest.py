"""Kernels of reports, and commands that start them, are forks of one process that has imported torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.forks import forking


@pytest.fixture(autouse=True, scope="module")
def forked_kernels() -> Iterator[None]:
    with forking():
        yield
