"""Random states of a run: those of torch belong to it alone; those of Python and NumPy are saved with it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

# torch's generators belong to the whole process: of two threads that swap them, one must wait for the other.
GLOBAL_RNG_LOCK = threading.RLock()


class TorchRandomState:
    """Random states of torch for one run, in force only inside `with state.current():`.

    Thus dropout in a run does not depend on what its observers draw, and their draws do not depend on the run. The
    generators of Python and NumPy stay those of the process, since swapping them costs more than a small training
    step; a checkpoint holds their states, too, and loading it restores them.

    Args:
        seed: of torch's generators, 0 .. 2^63−1.
        device: whose generator belongs to the run, beside that of the CPU.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with GLOBAL_RNG_LOCK:
            outside = self._torch_states()
            torch.manual_seed(seed)
            self._state = self._torch_states()
            self._make_current(outside)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the run's states the current ones within the block."""
        with GLOBAL_RNG_LOCK:
            outside = self._torch_states()
            self._make_current(self._state)
            try:
                yield
            finally:
                self._state = self._torch_states()
                self._make_current(outside)

    def to_plain(self) -> dict[str, Any]:
        """All states as tensors, numbers and strings, as weights_only loading wants them."""
        version, words, gauss = random.getstate()
        kind, key, *rest = np.random.get_state(legacy=True)
        return {
            "torch": self._state,
            "python": [version, list(words), gauss],
            "numpy": [kind, np.asarray(key).tolist(), *rest],
        }

    def load_plain(self, plain: dict[str, Any]) -> None:
        """Take back what to_plain() returned."""
        kind, key, *rest = plain["numpy"]
        numbers = np.array(key, dtype=np.uint32)  # raises, if numbers do not fit, before anything is set
        version, words, gauss = plain["python"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state((kind, numbers, *rest))
        self._state = plain["torch"]

    def _torch_states(self) -> list[Tensor]:
        on_device = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return [torch.get_rng_state(), *on_device]

    def _make_current(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)
