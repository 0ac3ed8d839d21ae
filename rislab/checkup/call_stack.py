"""Where in the loop something happened: the frames that are neither torch's nor the checkup's."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch

# Frames of files in these folders are not the loop's: torch's, the checkup's, and those of other libraries.
_NEVER = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<frozen")
_LIBRARIES = str(Path(torch.__file__).parent.parent)
# So many frames tell one place of a loop from another.
_DEPTH = 24


def caller() -> tuple[str, tuple[str, ...]]:
    """File and line of the innermost frame of the loop, and all frames that led there, with those of libraries inside.

    What a library calls a loss from tells its losses apart; what a library is called by does not.
    """
    frame = inspect.currentframe()
    where = ""
    frames: list[str] = []
    while frame is not None and len(frames) < _DEPTH:
        name = frame.f_code.co_filename
        if not name.startswith(_NEVER):
            library = name.startswith(_LIBRARIES)
            place = f"{name}:{frame.f_lineno}"
            if not library or not where:
                frames.append(place)
            where = where or ("" if library else place)
        frame = frame.f_back
    return where, tuple(frames)
