"""Numbers of the README's measured part, put there from reports/readme.json: `make readme`.

A block, a paragraph or a table, is named by a comment before it. Its numbers stand in the JSON row by row, in their
order, each as it is shown, or as {"source": ..., "format": ...} with a source of tests/figures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.figures.measure import ROOT, Benchmarks, value_of

README, SOURCE = ROOT / "README.md", ROOT / "reports" / "readme.json"
# Code and what a link leads to are no numbers.
CODE = r"`[^`]*`|\]\([^)]*\)"
NUMBER = r"(?<![\w.])-?\d[\d.]*\d(?:e-?\d+)?(?![\w])|(?<![\w.])\d(?:e-?\d+)?(?![\w])"
MARK = re.compile(r"^<!-- reports/readme.json: (\w+) -->\n(.+?)(?=\n\n)", re.M | re.S)


def measured_part(text: str) -> str:
    """The section of the README that holds measured numbers."""
    return text[text.index("\n## Measured\n") : text.index("\n## The house\n")]


def numbers_of(line: str) -> list[str]:
    """Numbers of a line in their order, without those of code."""
    return re.findall(NUMBER, re.sub(CODE, "", line))


def refreshed(text: str) -> str:
    """The README with the numbers of its JSON."""
    content = json.loads(SOURCE.read_text(encoding="utf-8"))
    return MARK.sub(lambda match: _block(match, content[match[1]]["numbers"]), text)


def _block(match: re.Match[str], rows: list[list[Any]]) -> str:
    lines, values = match[2].split("\n"), iter(rows)
    shown = [_line(line, next(values)) if numbers_of(line) else line for line in lines]
    if next(values, None) is not None:
        raise ValueError(f"{match[1]} has more rows in {SOURCE.name} than in the README")
    return "\n".join([match[0].split("\n")[0], *shown])


def _line(line: str, row: list[Any]) -> str:
    if len(row) != len(numbers_of(line)):
        raise ValueError(f"{len(row)} numbers for {line!r}")
    values: Iterator[Any] = iter(row)
    return re.sub(f"({CODE})|{NUMBER}", lambda one: one[0] if one[1] else _shown(next(values)), line)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    benchmarks = Benchmarks.of_file(ROOT / "reports" / "benchmarks.json")
    measured = value_of(value["source"], benchmarks, {})
    if measured is None:
        raise ValueError(f"{value['source']} is not measured")
    return format(measured, value["format"])


def main(path: Path = README) -> None:
    """Write the README anew."""
    path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
