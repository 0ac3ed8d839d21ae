"""What is new in a figure, as one message: what changed, and of growing curves the new points alone, in binary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rislab.reports.figure_content import unpacked

KINDS = ("f4", "f8", "i1", "i2", "i4", "u1", "u2", "u4")  # of numbers that a page can take as they are


def content_of(figure: Any) -> dict[str, Any]:
    """Data and layout of a figure, of plain mappings, lists and NumPy arrays; its template is left out.

    Args:
        figure: of plotly, or its data and layout.
    """
    plain = figure if isinstance(figure, dict) else figure.to_plotly_json()
    layout = {name: value for name, value in plain["layout"].items() if name != "template"}
    return {"data": [_plain(trace) for trace in plain["data"]], "layout": _plain(layout)}


def delta(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What turns one content into the other.

    Args:
        old: from content_of(), as `new`.
        new: what is to be shown.

    Returns:
        "count" of traces; "traces", by place what is to be set, to be appended ("tail", with the length "from" which
        on it stands), and "gone"; of the "layout", where it has changed, the same.
    """
    traces: dict[str, Any] = {}
    for place, trace in enumerate(new["data"]):
        before = old["data"][place] if place < len(old["data"]) else {}
        if changes := _changes(before, trace):
            traces[str(place)] = changes
    result: dict[str, Any] = {"count": len(new["data"]), "traces": traces}
    layout = _changes(old["layout"], new["layout"])
    return {**result, "layout": layout} if layout else result


def packed(value: Any) -> Any:
    """The value with arrays as binary buffers, and null for what JSON cannot say."""
    if isinstance(value, dict):
        return {name: packed(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str[1:], "shape": list(value.shape), "buffer": value.tobytes()}
    if isinstance(value, list | tuple):
        return [packed(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {"set": {}, "tail": {}, "gone": [name for name in old if name not in new]}
    for name, value in new.items():
        before = old.get(name)
        start = _shared(before, value)
        if start is not None and start:
            if start < len(value):
                parts["tail"][name] = {"from": start, "values": packed(value[start:])}
        elif name not in old or not _same(before, value):
            parts["set"][name] = packed(value)
    return {name: part for name, part in parts.items() if part}


def _shared(old: Any, new: Any) -> int | None:
    """How many numbers two curves have in common from their beginning, if that is half of them; None if not."""
    arrays = isinstance(old, np.ndarray) and isinstance(new, np.ndarray)
    if not arrays or old.ndim != 1 or new.ndim != 1 or old.dtype != new.dtype or len(old) > len(new):
        return None
    count = len(old)
    differ = np.flatnonzero(_bits(old) != _bits(new[:count]))
    start = int(differ[0]) if len(differ) else count
    return start if 2 * start >= len(new) else None


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    """NaN equals itself, bit by bit."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, np.ndarray) or isinstance(new, np.ndarray):
        arrays = isinstance(old, np.ndarray) and isinstance(new, np.ndarray)
        return bool(arrays and old.dtype == new.dtype and old.shape == new.shape and (_bits(old) == _bits(new)).all())
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_same(old[name], new[name]) for name in new)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    return type(old) is type(new) and bool(old == new)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(unpacked(value)) if "bdata" in value else {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUSb":
            return _plain(value.tolist())
        return value.copy() if value.dtype.str[1:] in KINDS else value.astype(np.float64)
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
