"""What the methods of a module use that is not the module's: values of global names, and of functions around it."""

from __future__ import annotations

import dis
import random
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from rislab.checkup.probes.network_copies import global_names
from rislab.checkup.recording.call_stack import is_of_torch

# What a forward may keep outside of its network, where no copy can hold it.
_KEEPING = (list, dict, set, bytearray, torch.Generator, random.Random)


def keeps_outside(kind: type) -> bool:
    """Whether methods of a module, or functions that they call, may change what is not its own; torch's do not."""
    values, stored = outer_values(kind)
    # NumPy imports its generators with their first use.
    keeping = (*_KEEPING, np.random.Generator, np.random.RandomState)
    return stored or any(isinstance(value, keeping) for value in values)


def outer_values(kind: type) -> tuple[list[Any], bool]:
    """What methods of a module, and functions that they call, look up outside of them; whether they set any of it."""
    visited: set[int] = set()
    functions = [
        one
        for base in kind.__mro__
        if not is_of_torch(base) and base is not object
        for one in vars(base).values()
        if isinstance(one, FunctionType)
    ]
    outer: list[Any] = []
    stored = False
    while functions:
        function = functions.pop()
        if id(function) in visited or is_of_torch(function):
            continue
        visited.add(id(function))
        stored |= _stores_outside(function.__code__)
        names = global_names(function.__code__)
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        values = [*cells, *(function.__globals__[name] for name in names if name in function.__globals__)]
        outer += values
        functions += [value for value in values if isinstance(value, FunctionType)]
    return outer, stored


def _is_filled(cell: Any) -> bool:
    try:
        return not isinstance(cell.cell_contents, ModuleType)
    except ValueError:
        return False


def _stores_outside(code: CodeType) -> bool:
    """Whether code sets a global name, or a variable of a function around it."""
    return any(
        one.opname == "STORE_GLOBAL" or (one.opname == "STORE_DEREF" and one.argval in code.co_freevars)
        for one in dis.get_instructions(code)
    )
