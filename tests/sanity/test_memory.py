"""Peak memory: that of known allocations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rislab.sanity.memory import peak_memory

CPU = torch.device("cpu")


@pytest.mark.slow
def test_peak_memory_is_that_of_known_allocations() -> None:
    def prepare() -> Any:
        freed = [torch.zeros(1000)]  # freed in the call: takes nothing off what the call holds at once

        def call() -> None:
            freed.clear()
            large = torch.zeros(1 << 20)  # 4 MiB
            del large
            held = torch.zeros(1 << 18), torch.zeros(1 << 19)  # 3 MiB together
            del held

        return call

    peak = peak_memory(CPU, prepare)
    # The rest is what was freed first, and scalars.
    assert abs(peak - (4 << 20)) <= 5000
    assert peak_memory(CPU, lambda: lambda: None) == 0
