"""Copies of a network that share nothing with it, nor the state that its hooks and its replaced methods use."""

from __future__ import annotations

import copy
import dis
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from rislab.checkup.recording.call_stack import is_of_torch


def copy_network(model: nn.Module) -> nn.Module:
    """A deep copy whose hooks count, record and change things of their own.

    Python copies no functions: a hook that appends to a list, and a `forward` that was replaced by a function, would
    go on with the list, and with the network, that they were made for. So would a function that a module holds and
    its `forward` calls, as one around a layer: that layer would stay in training mode.
    """
    memo: dict[int, Any] = {}
    for function in _held_functions(model):
        _isolated(function, memo, {})
    copied: nn.Module = _copied(model, memo, {})
    for module in copied.modules():
        state = vars(module)
        for name, value in [*state.items()]:
            if isinstance(value, FunctionType | partial) and hasattr(type(module), name):
                state[name] = _isolated(value, memo)
            elif isinstance(value, OrderedDict) and value and all(isinstance(key, int) for key in value):
                for key, hook in value.items():
                    value[key] = _isolated(hook, memo)
    return copied


def _held_functions(model: nn.Module) -> Iterator[FunctionType]:
    """Those that modules hold under names of their own, one by one or in a container."""
    for module in model.modules():
        for name, value in vars(module).items():
            inner = [*value.values()] if type(value) is dict else value if isinstance(value, list | tuple) else [value]
            if not hasattr(type(module), name):
                yield from (one for one in inner if isinstance(one, FunctionType))


def _copy_graphless(value: Any, memo: dict[int, Any]) -> None:
    """Enter a copy of each tensor with a graph, which deepcopy refuses, such as the state of the last sequence."""
    if isinstance(value, nn.Module):
        for module in value.modules():
            for inner in vars(module).values():
                if not isinstance(inner, nn.Module):
                    _copy_graphless(inner, memo)
    elif isinstance(value, Tensor) and value.grad_fn is not None:
        memo[id(value)] = value.detach().clone()
    elif isinstance(value, tuple | list):
        for inner in value:
            _copy_graphless(inner, memo)


def _isolated(function: Any, memo: dict[int, Any], home: dict[str, Any] | None = None) -> Any:
    """A function over copies of all that it can reach by its closure, and by global names of its own module."""
    if isinstance(function, partial):
        return partial(_isolated(function.func, memo, home), *function.args, **function.keywords)
    if not isinstance(function, FunctionType) or is_of_torch(function):
        return function
    if id(function) in memo:
        return memo[id(function)]
    home = function.__globals__ if home is None else home
    own = function.__globals__ is home
    if not own and not (function.__closure__ or function.__defaults__):
        return function
    names = dict(home) if own else function.__globals__
    cells = tuple(CellType() for _ in function.__closure__ or ())
    new = FunctionType(function.__code__, names, function.__name__, None, cells or None)
    memo[id(function)] = new
    # A memo goes by addresses, so what it knows must live on.
    memo.setdefault(id(memo), []).append(function)
    for name in global_names(function.__code__) & home.keys() if own else ():
        names[name] = _copied(names[name], memo, home)
    for cell, copied in zip(function.__closure__ or (), cells, strict=True):
        try:
            copied.cell_contents = _copied(cell.cell_contents, memo, home)
        except ValueError:  # an empty cell
            continue
    new.__defaults__ = _copied(function.__defaults__, memo, home)
    new.__kwdefaults__ = _copied(function.__kwdefaults__, memo, home)
    return new


def _copied(value: Any, memo: dict[int, Any], home: dict[str, Any]) -> Any:
    if isinstance(value, FunctionType | partial):
        return _isolated(value, memo, home)
    _copy_graphless(value, memo)
    return value if isinstance(value, ModuleType | type) else copy.deepcopy(value, memo)


def global_names(code: CodeType) -> set[str]:
    """Names that a function looks up, in functions within it too."""
    own = {str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "STORE_GLOBAL")}
    return own.union(*(global_names(one) for one in code.co_consts if isinstance(one, CodeType)))
