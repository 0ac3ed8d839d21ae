"""One browser for the tests of a file: while it is open, no other file of this process can use an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.browser.chromium import launched

    with launched() as chromium:
        yield chromium
