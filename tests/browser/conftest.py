"""One browser for the tests of a file, and kernels that are forks.

While the browser is open, no other file of this process can use an event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.forks import forking


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.browser.chromium import launched

    with launched() as chromium:
        yield chromium


@pytest.fixture(autouse=True, scope="module")
def forked_kernels() -> Iterator[None]:
    with forking():
        yield
