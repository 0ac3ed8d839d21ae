"""Operations of the checkup's own, which nothing observes that the loop has put around those of torch."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodWrapperType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# In spite of its name, the module in which torch's documentation has modes of the dispatcher.
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_PLAIN = (Tensor, nn.Parameter)
_P = ParamSpec("_P")
_T = TypeVar("_T")
# Whether the loop has put a mode around operations, as for counting them, or for selective checkpoints.
has_dispatch_mode = functools.partial(is_in_torch_dispatch_mode, False)  # without those of torch itself
# Whether this thread is not watched.
UNWATCHED: ContextVar[bool] = ContextVar("unwatched", default=False)


# Attributes that are computed; others are only read.
_COMPUTED = {"T", "H", "mT", "mH", "real", "imag", "data"}
# What says how this thread computes, and what leads to work that is to be done in it.
_OF_THIS_THREAD = {"_set_grad_enabled", "outside"}


class _OwnOperations(TorchFunctionMode):
    """Operations without the modes of this thread, of which a new one has none, and without the loop's own classes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # As torch does it itself for classes that change nothing.
        compute = functools.partial(Tensor.__torch_function__, func, (), args, kwargs or {})
        read = type(func) is MethodWrapperType and getattr(func.__self__, "__name__", "") not in _COMPUTED
        if read or not has_dispatch_mode() or getattr(func, "__name__", "") in _OF_THIS_THREAD:
            return compute()
        return _in_another_thread(compute, torch.is_grad_enabled())


def _in_another_thread(compute: Callable[[], Any], gradients: bool) -> Any:
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with torch.set_grad_enabled(gradients):
                results.append(compute())
        # Of whatever kind, it belongs to the caller.
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def is_of_own_class(values: Iterable[Any]) -> bool:
    """Whether there is a tensor of a class that the loop has made, here or one level deeper."""
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            continue
        if issubclass(kind, Tensor) or (kind is tuple and is_of_own_class(value)):
            return True
    return False


def unobserved(own_class: bool, work: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
    """What some work gives, while nobody observes what it computes.

    Args:
        own_class: whether there are tensors of a class that the loop has made.
        work: is called.
        args: of it.
        named: of it, by name.
    """
    if own_class or has_dispatch_mode():
        with _OwnOperations():
            return work(*args, **named)
    return work(*args, **named)


@contextmanager
def unwatched() -> Iterator[None]:
    """Meanwhile nothing that this thread does is told: what is tried on copies is no part of a loop."""
    token = UNWATCHED.set(True)
    try:
        yield
    finally:
        UNWATCHED.reset(token)
