"""Stacks as they would be without the checkup: where warnings of torch belong, what the traceback of an error shows."""

from __future__ import annotations

import dis
import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import torch
from torch.overrides import handle_torch_function

_OWN = str(Path(__file__).parents[1])
_TORCH = torch.__path__[0]
# Modules whose frames stand around functions of the loop, or of torch that it calls.
_AROUND = {"plain_stack", "interception", "forwards", "closures", "script", "child_processes"}
_DISPATCH = handle_torch_function.__code__
# A function that a mode is asked about calls this, which calls the mode, which calls the function again.
_BY_MODE = "__torch_function__"


def _is_own(code: CodeType) -> bool:
    return code.co_filename.startswith(_OWN)


def plain_places(codes: Sequence[CodeType]) -> list[int]:
    """Which frames of a stack would be there without the checkup.

    Args:
        codes: of the frames, the outermost first.
    """
    results: list[int] = []
    for place, code in enumerate(codes):
        if not _is_own(code):
            results.append(place)
        elif code.co_name == _BY_MODE and results and codes[results[-1]] is _DISPATCH:
            results.pop()
            inner = next((one for one in codes[place:] if not _is_own(one)), None)
            if results and codes[results[-1]] is inner:
                results.pop()
    return results


def clean_traceback(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of the checkup.

    Args:
        trace: as Python made it.
    """
    entries: list[TracebackType] = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    codes = [one.tb_frame.f_code for one in entries]
    result = None
    for place in reversed(plain_places(codes)):
        entry, offset, line = entries[place], entries[place].tb_lasti, entries[place].tb_lineno
        if place + 1 < len(codes) and codes[place + 1] is _DISPATCH and _is_own(codes[min(place + 2, len(codes) - 1)]):
            # What it calls at its end, as Tensor.backward() does, where no mode is asked.
            call = [one for one in dis.get_instructions(codes[place]) if one.opname.startswith("CALL")][-1]
            position = call.positions
            offset, line = call.offset, (position and position.lineno) or line
        result = TracebackType(result, entry.tb_frame, offset, line)
    return result


def clean_error(error: BaseException) -> None:
    """Take the frames of the checkup out of the tracebacks of an error, and of those that led to it."""
    left, done = [error], set()
    while left:
        one = left.pop()
        if id(one) not in done:
            done.add(id(one))
            one.__traceback__ = clean_traceback(one.__traceback__)
            parts = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            left += [other for other in (one.__cause__, one.__context__, *parts) if other is not None]


def showing(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """What shows a warning that belongs to a frame of the checkup where it would belong without it.

    Args:
        original: what shows warnings, called by that which takes its place.
    """

    def show(message: Any) -> None:
        if _warns_itself():
            return
        frame = _plain_frame(message) if message.filename.startswith((_OWN, _DISPATCH.co_filename)) else None
        if frame is None:
            original(message)
            return
        known = frame.f_globals.setdefault("__warningregistry__", {})
        module, file = frame.f_globals.get("__name__"), frame.f_code.co_filename
        # Filters may tell modules apart.
        warnings.warn_explicit(
            message.message, message.category, file, frame.f_lineno, module, known, source=message.source
        )

    return show


def _warns_itself() -> bool:
    """Whether the innermost frames are those of work of the checkup's own, which is none of the loop's business."""
    frame = inspect.currentframe()
    for _ in range(3):
        frame = frame and frame.f_back
    while frame is not None and frame.f_code.co_filename.startswith((_OWN, _TORCH)):
        if _is_own(frame.f_code) and Path(frame.f_code.co_filename).stem not in _AROUND:
            return True
        frame = frame.f_back
    return False


def _plain_frame(message: Any) -> FrameType | None:
    """The frame to which a warning would belong without the checkup, None if it is not found."""
    frames: list[FrameType] = []
    frame = inspect.currentframe()
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    del frames[:3]  # this function, show(), and what has replaced the original
    levels = [
        level
        for level, one in enumerate(frames)
        if one.f_lineno == message.lineno and one.f_code.co_filename == message.filename
    ]
    frames.reverse()
    plain = [frames[place] for place in plain_places([one.f_code for one in frames])]
    level = levels[0] if levels else len(plain)
    if _is_own(frames[-1].f_code):
        level = 0  # a function that is no Python's warns in the name of what calls it
    return plain[-1 - level] if level < len(plain) else None
