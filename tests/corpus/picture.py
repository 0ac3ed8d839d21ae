"""The scoreboard as a picture: what each tool names of the faults, against what it says of correct programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Of the figures of rislab: blue for ours, grey that can be read on white and on black for the others.
OURS, OTHERS = "#0072B2", "#767676"
WIDTH, HEIGHT, LEFT, TOP, SIDE, LINE = 860, 560, 90, 60, 420, 17
STYLE = """  svg { background: #ffffff; }
  text { fill: #333333; } .number { fill: #ffffff !important; } .axis { stroke: #767676; } .grid { stroke: #e3e3e3; }
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
        x, y = LEFT + SIDE * share, TOP + SIDE * (1 - share)
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
    for place, one in enumerate(sorted(points, key=lambda point: (-point.named, point.alarms)), start=1):
        x, y, row = LEFT + SIDE * one.alarms, TOP + SIDE * (1 - one.named), TOP + 4 + place * (LINE + 5)
        colour = OURS if one.ours else OTHERS
        text = f"{one.name}: names {one.named:.0%}, speaks of {one.alarms:.0%}"
        lines += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="{colour}"><title>{escape(text)}</title></circle>',
            f'<text class="number" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" font-size="11">{place}</text>',
            f'<text x="{LEFT + SIDE + 30}" y="{row}">{place}  {escape(text)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
