"""The page of figures: asked, measured, command, and why where a figure falls short."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.figures.measure import Benchmarks, provenance_line, read_rows, value_of

ASKED = Path(__file__).parent / "asked.yaml"


@dataclass(frozen=True)
class Asked:
    """A figure that was asked for.

    Args:
        section: of the page.
        what: in words, with its setting.
        asked: "≤ X", "≥ X" or "= X", with a unit.
        source: see value_of(); "" if no benchmark has it.
        command: that measures it.
        why: what makes it fall short, where it does.
        percent: whether the value is a share that is shown in percent.
    """

    section: str
    what: str
    asked: str
    source: str = ""
    command: str = ""
    why: str = ""
    percent: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value is as asked."""
        sign, limit = self.limit
        return value <= limit if sign == "≤" else value >= limit if sign == "≥" else value == limit

    def value(self, benchmarks: Benchmarks, here: Mapping[str, float]) -> float | None:
        """What was measured, in the unit of what is asked; None if nothing was."""
        value = value_of(self.source, benchmarks, here, min if self.limit[0] == "≥" else max) if self.source else None
        return 100 * value if self.percent and value is not None else value

    @property
    def limit(self) -> tuple[str, float]:
        """The sign and the number of what is asked."""
        match = re.match(r"([≤≥=]) ([\d.]+)", self.asked)
        if match is None:
            raise ValueError(f"{self.what}: asked is {self.asked!r}; allowed: a text such as '≤ 1.1 s'")
        return match[1], float(match[2])

    @property
    def unit(self) -> str:
        """What follows the number."""
        return re.sub(r"^[≤≥=] [\d.]+ ?", "", self.asked)


def asked(path: Path = ASKED) -> list[Asked]:
    """All figures that were asked for, as their file has them."""
    return [Asked(section, **row) for section, rows in read_rows(path).items() for row in rows]  # type: ignore[arg-type]


def figures_page(rows: Sequence[Asked], benchmarks: Benchmarks, here: Mapping[str, float]) -> str:
    """The page, in Markdown."""
    values = [row.value(benchmarks, here) for row in rows]
    reached = sum(value is not None and row.holds(value) for row, value in zip(rows, values, strict=True))
    missing = sum(value is None for value in values)
    lines = [
        "# Asked and measured",
        "",
        "Written by `make figures` from the JSON of the benchmarks and what other commands write. What a test asserts "
        "(no overlap, no answer in a student's copy, no request to the outside, …) has no row: `make test` fails "
        "without it.",
        "",
        f"{len(rows)} figures: {reached} reached, {len(rows) - reached - missing} fall short, {missing} not measured. "
        f"Sizes, and processor times of starting: {provenance_line()}.",
    ]
    lines += _sections(rows, values)
    stamps = sorted({f"{row['date']}, commit {row['commit']}, {row['machine']}" for row in benchmarks.rows.values()})
    return "\n".join([*lines, "", "Benchmarks were run: " + ("; ".join(stamps) or "never") + ".", ""])


def _sections(rows: Sequence[Asked], values: Sequence[float | None]) -> Iterator[str]:
    section = ""
    for row, value in zip(rows, values, strict=True):
        if row.section != section:
            section = row.section
            yield from ("", f"## {section}", "", "| figure | asked | measured | | command | why it falls short |")
            yield "|---|---|---|---|---|---|"
        if value is None:
            state, shown = "", "not measured"
        else:
            state, shown = (
                "reached" if row.holds(value) else "**short**",
                f"{value:{'.0f' if value >= 1000 else '.4g'}} {row.unit}".strip(),
            )
        why = row.why if value is not None and not row.holds(value) else ""
        command = f"`{row.command}`" if row.command else ""
        yield f"| {row.what} | {row.asked} | {shown} | {state} | {command} | {why} |"
