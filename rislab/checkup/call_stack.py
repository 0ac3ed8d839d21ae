"""Where in the loop something happened: the frames that are neither torch's nor the checkup's."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import torch

# Frames of files in these folders are not the loop's: torch's, the checkup's, and those of other libraries.
_NEVER = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<frozen")
_LIBRARIES = str(Path(torch.__file__).parent.parent)
# Some are installed elsewhere than torch, as for one user.
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
# So many frames tell one place of a loop from another.
_DEPTH = 24


def caller() -> tuple[str, tuple[str, ...]]:
    """File and line of the innermost frame of the loop, and all frames that led there, with those of libraries inside.

    What a library calls a loss from tells its losses apart; what a library is called by does not.
    """
    frame = inspect.currentframe()
    results = False
    frames: list[tuple[str, int]] = []
    while frame is not None and len(frames) < _DEPTH:
        name = frame.f_code.co_filename
        kind = _kind(name)
        if kind == "loop" or (kind == "library" and not results):
            frames.append((name, frame.f_lineno))
            results = results or kind == "loop"
        frame = frame.f_back
    return _in_words(tuple(frames))


def by_library(stack: tuple[str, ...]) -> bool:
    """Whether a library other than torch did it, for the loop.

    Args:
        stack: as caller() gives it.
    """
    return bool(stack) and _kind(stack[0].rpartition(":")[0]) == "library"


@functools.lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    """Whose file this is: "loop", "library" or "" for torch and the checkup."""
    if name.startswith(_NEVER):
        return ""
    library = name.startswith(_LIBRARIES) or not _PACKAGE_FOLDERS.isdisjoint(Path(name).parts)
    return "library" if library else "loop"


@functools.lru_cache(maxsize=4096)
def _in_words(frames: tuple[tuple[str, int], ...]) -> tuple[str, tuple[str, ...]]:
    """The same objects for the same frames: a trace holds them a thousand times."""
    where = next((f"{name}:{line}" for name, line in frames if _kind(name) == "loop"), "")
    return where, tuple(f"{name}:{line}" for name, line in frames)
