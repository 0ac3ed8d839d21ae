"""Where in the loop something happened: the frames that are neither torch's nor the checkup's."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch

# Frames of files in these folders are not the loop's: torch's, the checkup's, those of libraries, and Python's own.
_NEVER = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<frozen")
_LIBRARIES = str(Path(torch.__file__).parent.parent)
_PYTHON = str(Path(os.__file__).parent)
# Some are installed elsewhere than torch, as for one user.
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
# So many frames tell one place of a loop from another.
_DEPTH = 24


def caller() -> tuple[str, tuple[str, ...]]:
    """File and line of the innermost frame of the loop, and all frames that led there, with those of libraries inside.

    What a library calls a loss from tells its losses apart; what a library is called by does not.
    """
    where, lines, _ = _places()
    return where, lines


def exact_caller() -> tuple[str, tuple[str, ...]]:
    """As caller(), with the places of the calls in their lines: several may stand on one."""
    where, _, calls = _places()
    return where, calls


def _places() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    frame: FrameType | None = sys._getframe()
    results = False
    # To look a line number up takes longer than all else.
    codes, places = _Codes(), list[int]()
    while frame is not None:
        code = frame.f_code
        kind = _kind(code.co_filename)
        if kind and (kind == "loop" or not results):
            codes.append(code)
            places += id(code), frame.f_lasti
            results = results or kind == "loop"
            if len(codes) == _DEPTH:
                break
        frame = frame.f_back
    return _in_words(tuple(places), codes)


def innermost_frame() -> tuple[FrameType | None, int]:
    """The innermost frame of the loop, and how many there are in it, without that of this function."""
    frame: FrameType | None = sys._getframe()
    depth = 0
    while frame is not None and _kind(frame.f_code.co_filename) != "loop":
        frame, depth = frame.f_back, depth + 1
    return frame, depth - 1


def by_library(stack: tuple[str, ...]) -> bool:
    """Whether a library other than torch did it, for the loop.

    Args:
        stack: as caller() gives it, or exact_caller().
    """
    return bool(stack) and _kind(stack[0].rpartition(":")[0]) == "library"


def definition_of(function: Any) -> str:
    """File and line of a function, or of a method of a class; "" if it is torch's, or no such thing."""
    inner = getattr(function, "__func__", function)
    if not isinstance(inner, FunctionType) or is_of_torch(inner):
        return ""
    return f"{inner.__code__.co_filename}:{inner.__code__.co_firstlineno}"


def is_of_torch(function: Any) -> bool:
    """Whether a function, or a class, is defined in torch."""
    return str(function.__module__).split(".")[0] == "torch"


@functools.lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    """Whose file this is: "loop", "library" or "" for torch, the checkup and Python itself."""
    if name.startswith(_NEVER):
        return ""
    if name.startswith(_LIBRARIES) or not _PACKAGE_FOLDERS.isdisjoint(Path(name).parts):
        return "library"
    return "" if name.startswith(_PYTHON) else "loop"


class _Codes(list[CodeType]):
    """Code of frames that is told apart by its addresses, beside it: a cache of them must hold it alive."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def __eq__(self, other: object) -> bool:
        return True


@functools.lru_cache(maxsize=4096)
def _in_words(places: tuple[int, ...], codes: _Codes) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The same objects for the same places, address and offset of each: a trace holds them a thousand times."""
    lines = [
        (code.co_filename, [*code.co_positions()][offset // 2][0])
        for code, offset in zip(codes, places[1::2], strict=True)
    ]
    where = next((f"{name}:{line}" for name, line in lines if _kind(name) == "loop"), "")
    stack = tuple(f"{name}:{line}" for name, line in lines)
    return where, stack, tuple(f"{one}+{offset}" for one, offset in zip(stack, places[1::2], strict=True))
