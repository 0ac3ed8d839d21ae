"""The picture of a rule: α and cosine of each step of its two loops, or, where these do not differ, the counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rislab.checkup.rule_examples import LoopNumbers
from rislab.reports import html_export

WIDTH, HEIGHT, LEFT, GAP = 300, 150, 64, 12  # of one chart, pixels
VISIBLE = 1e-3  # smallest difference that a chart shows


def rule_picture(wrong: LoopNumbers, right: LoopNumbers) -> Any:
    """Draw what was measured in the two loops of an example, as SVG.

    Args:
        wrong: numbers of the wrong loop.
        right: those of the right one.
    """
    pairs = {"α": (wrong.alphas, right.alphas), "cosine": (wrong.cosines, right.cosines)}
    off = [value for values in pairs.values() for value in values[0] if not abs(value - 1) < VISIBLE]
    if off and right.alphas:
        charts = [_chart(name, place, *values) for place, (name, values) in enumerate(pairs.items())]
        return html_export.render("rule_steps.svg.j2", charts=charts, width=WIDTH, height=HEIGHT)
    most = max(*wrong.counts.values(), *right.counts.values(), 1)
    rows = [(name, [(count, WIDTH * count / most) for count in (own, right.counts[name])])
            for name, own in wrong.counts.items()]  # fmt: skip
    return html_export.render("rule_counts.svg.j2", rows=rows, width=WIDTH)


def _chart(name: str, place: int, wrong: Sequence[float], right: Sequence[float]) -> dict[str, Any]:
    """Title, level of 1, ends of the axes and the points of a chart; what is no number is left out."""
    values = [value for value in (*wrong, *right, 1.0) if math.isfinite(value)]
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 0.1
    low, high = low - room, high + room
    last = max(len(wrong), len(right))

    def x(step: int) -> float:
        return LEFT + (WIDTH - LEFT) * (step + 0.5) / last

    def y(value: float) -> float:
        return HEIGHT * (high - value) / (high - low)

    points = [[(x(step), y(value)) for step, value in enumerate(own) if math.isfinite(value)] for own in (wrong, right)]
    ends = {round(end, 3): y(end) for end in (min(values), max(values), 1.0)}
    return {"name": name, "at": place * (WIDTH + GAP), "level": y(1.0), "ends": ends, "points": points, "last": last,
            "left": LEFT}  # fmt: skip
