"""The scoreboard as a picture: what each tool names of the faults, against what it says of correct programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Of the figures of rislab: blue for ours, grey that can be read on white and on black for the others.
OURS, OTHERS = "#0072B2", "#767676"
WIDTH, HEIGHT, LEFT, TOP, SIDE, LINE, DOT = 860, 560, 90, 60, 420, 17, 5
STYLE = """  svg { background: #ffffff; }
  text { fill: #333333; } .axis { stroke: #767676; } .grid { stroke: #e3e3e3; }
  @media (prefers-color-scheme: dark) {
    svg { background: #111111; } text { fill: #e0e0e0; } .axis { stroke: #9a9a9a; } .grid { stroke: #363636; }
  }"""


@dataclass(frozen=True)
class Point:
    """One tool.

    Args:
        name: of the tool.
        alarms: share of correct programs of which it says something, 0 to 1.
        named: share of faulty programs that it names rightly, 0 to 1.
        ours: whether it is one of ours.
    """

    name: str
    alarms: float
    named: float
    ours: bool


def picture(points: Sequence[Point], title: str) -> str:
    """An SVG of a square with both shares, and a list of the tools beside it, the best first.

    Args:
        points: one a tool.
        title: one sentence.
    """
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t" '
        'font-family="system-ui, sans-serif" font-size="14">',
        f'<title id="t">{escape(title)}</title>',
        f"<style>\n{STYLE}\n</style>",
        f'<text x="{LEFT}" y="30" font-size="16">{escape(title)}</text>',
    ]
    for part in range(6):
        share = part / 5
        x, y = place_of(share, share)
        for ends in ((x, TOP, x, TOP + SIDE), (LEFT, y, LEFT + SIDE, y)):
            kind = "grid" if part else "axis"
            lines.append('<line class="{}" x1="{:.0f}" y1="{:.0f}" x2="{:.0f}" y2="{:.0f}"/>'.format(kind, *ends))
        lines.append(f'<text x="{x:.0f}" y="{TOP + SIDE + 22}" text-anchor="middle">{share:.0%}</text>')
        lines.append(f'<text x="{LEFT - 10}" y="{y + 5:.0f}" text-anchor="end">{share:.0%}</text>')
    middle = TOP + SIDE / 2
    lines += [
        f'<text x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 48}" text-anchor="middle">correct programs of which it says '
        "something</text>",
        f'<text transform="translate(28 {middle}) rotate(-90)" text-anchor="middle">faults that it names</text>',
    ]
    ranked = sorted(points, key=lambda point: (-point.named, point.alarms))
    marks = [place_of(one.alarms, one.named) for one in ranked]
    for place, (one, (x, y), (across, down)) in enumerate(zip(ranked, marks, beside(marks), strict=True), start=1):
        row, colour = TOP + 4 + place * (LINE + 5), OURS if one.ours else OTHERS
        text = f"{one.name}: names {one.named:.0%}, speaks of {one.alarms:.0%}"
        lines += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{DOT}" fill="{colour}"><title>{escape(text)}</title></circle>',
            f'<text x="{across:.1f}" y="{down + 4:.1f}" text-anchor="middle" font-size="12">{place}</text>',
            f'<text x="{LEFT + SIDE + 30}" y="{row}">{place}  {escape(text)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def place_of(alarms: float, named: float) -> tuple[float, float]:
    """Where two shares lie in the picture; beyond 0 % and 100 % there is room for numbers."""
    return LEFT + SIDE * (0.05 + 0.9 * alarms), TOP + SIDE * (0.95 - 0.9 * named)


def beside(marks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where the number of each mark stands: as near to it as it touches no mark and no other number.

    Args:
        marks: their centres.
    """
    numbers: list[tuple[float, float]] = []
    left, bottom = place_of(0, 0)
    for x, y in marks:
        around = [
            (x + radius * math.cos(turn * math.pi / 6), y - radius * math.sin(turn * math.pi / 6))
            for radius in range(DOT + 10, 20 * DOT, 4)
            for turn in range(12)
        ]
        free = (
            one
            for one in around
            if one[0] > LEFT + 6
            and abs(one[0] - left) > 8  # from the axes, too
            and abs(one[1] - bottom) > 8
            and all(math.dist(one, mark) >= DOT + 10 for mark in marks)
            and all(math.dist(one, number) >= 16 for number in numbers)
        )
        numbers.append(next(free, (x, y)))
    return numbers
