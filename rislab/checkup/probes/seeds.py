"""Random states that begin at a seed for what is tried, and are as they were afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def one_seed(seed: int) -> Iterator[None]:
    """All random states begin at a seed, and are as they were afterwards: those of torch, of numpy and of Python."""
    states = random.getstate(), np.random.get_state()
    # torch.manual_seed() would also seed devices that are not in use yet, and those stay so.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
