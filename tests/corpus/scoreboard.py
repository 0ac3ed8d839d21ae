"""The scoreboard: what each tool says of each case, as a table of figures, a matrix, and the misses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.corpus.cases import SPLITS, Pair, Program
from tests.corpus.picture import Point, picture
from tests.corpus.tools import DECLARING, NOT_RUN, TOOLS, UNDECLARED, Said
from tests.corpus.trials import Trial

Labels = Mapping[str, Mapping[str, Any]]

WORDS = """\
* **Flagged**: the tool says something of severity error (a fault, of ours) about the faulty program; in brackets: error
  or warning. What is milder (notes, hints) never counts.
* **Rightly named**: one of its findings, error or warning, means one of the case's labels. What each finding of each
  tool means stands in `tests/corpus/labels.yaml`, written from the documentation of the tools before they were run;
  or the finding's own name, or an alias that it gives, is word for word one of the case's names.
* **Accused**: something of severity error about a fixed or a clean program; in brackets: error or warning. A pair
  marked as harmless counts here with both of its programs.
* **Cannot run**: the tool has no verdict: its way of working does not fit the program, it ended with an error, or it
  ran out of time. Such a case counts as not flagged, and stands in its own column.
* In square brackets: 95 % interval of Wilson.
* Seconds of the processor and mebibytes at the peak: medians over all programs; importing torch is not in the
  seconds of a tool that runs the program.
* `dev`: the half with which the checkup is mended; `held`: the half that is only measured."""


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share: its ends, from 0 to 1; (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    share, weight = hits / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def names_case(tool: str, findings: Iterable[Said], pair: Pair, labels: Labels) -> bool:
    """Whether one of the findings means the fault of the case."""
    family = tool.split()[0]
    meant = {name for label in pair.labels for name in labels[label].get(family, ())} | set(pair.names)
    return any(name in meant for one in findings for name in (one.name, *one.aliases))


@dataclass(frozen=True)
class Row:
    """Figures of one tool on one half; each a pair of hits and count."""

    tool: str
    split: str
    flagged: tuple[int, int]
    spoken: tuple[int, int]
    named: tuple[int, int]
    accused: tuple[int, int]
    warned: tuple[int, int]
    cannot: tuple[int, int]


class Scoreboard:
    """All trials, by tool, case and role.

    Args:
        pairs: of the corpus.
        programs: that are correct.
        found: trials.
        labels: what findings mean.
    """

    def __init__(
        self, pairs: Sequence[Pair], programs: Sequence[Program], found: Iterable[Trial], labels: Labels
    ) -> None:
        self.pairs, self.programs, self.labels = pairs, programs, labels
        self.trials = {(one.tool, one.case, one.role): one for one in found}
        self.tools = [tool.name for tool in TOOLS if any(key[0] == tool.name for key in self.trials)]

    def of(self, tool: str, case: str, role: str) -> Trial | None:
        """One trial; the declared checkup says what the undeclared one does where nothing is declared."""
        trial = self.trials.get((tool, case, role))
        if trial is None and tool == DECLARING:
            return self.trials.get((UNDECLARED, case, role))
        return trial

    def faults(self, split: str = "", kind: str = "") -> list[Pair]:
        """Pairs with an effect that were run."""
        return [
            pair
            for pair in self.pairs
            if not pair.harmless
            and split in ("", pair.split)
            and kind in ("", pair.kind)
            and any((tool, pair.name, "faulty") in self.trials for tool in self.tools)
        ]

    def verdict(self, tool: str, pair: Pair) -> str:
        """Of a faulty program: "named", "flagged", "warned", "silent" or "cannot"."""
        trial = self.of(tool, pair.name, "faulty")
        if trial is None or (trial.outcome.cannot and not trial.outcome.findings):
            return "cannot"
        if names_case(tool, trial.outcome.findings, pair, self.labels):
            return "named"
        levels = {one.level for one in trial.outcome.findings}
        return "flagged" if "error" in levels else "warned" if levels else "silent"

    def row(self, tool: str, split: str) -> Row:
        """Figures of one tool on one half."""
        faulty = [trial for pair in self.faults(split) if (trial := self.of(tool, pair.name, "faulty"))]
        good = [trial for trial in self._good(tool, split) if trial is not None]
        named = sum(self.verdict(tool, pair) == "named" for pair in self.faults(split))
        runs = [*faulty, *good]
        return Row(
            tool,
            split,
            (sum(_has_error(one) for one in faulty), len(faulty)),
            (sum(bool(one.outcome.findings) for one in faulty), len(faulty)),
            (named, len(faulty)),
            (sum(_has_error(one) for one in good), len(good)),
            (sum(bool(one.outcome.findings) for one in good), len(good)),
            (sum(bool(one.outcome.cannot) for one in runs), len(runs)),
        )

    def _good(self, tool: str, split: str) -> list[Trial | None]:
        pairs = [pair for pair in self.pairs if pair.split == split]
        return [
            *(self.of(tool, pair.name, "fixed") for pair in pairs),
            *(self.of(tool, pair.name, "faulty") for pair in pairs if pair.harmless),
            *(self.of(tool, one.name, "clean") for one in self.programs if one.split == split),
        ]

    def accusations(self, tool: str) -> list[Trial]:
        """Fixed and clean programs of which the tool says something."""
        return [
            trial
            for split in SPLITS
            for trial in self._good(tool, split)
            if trial is not None and trial.outcome.findings
        ]

    def plain(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "rows": [vars(self.row(tool, split)) for tool in self.tools for split in SPLITS],
            "kinds": {
                kind: {
                    tool: {
                        verdict: sum(self.verdict(tool, pair) == verdict for pair in self.faults(kind=kind))
                        for verdict in VERDICTS
                    }
                    for tool in self.tools
                }
                for kind in sorted({pair.kind for pair in self.faults()})
            },
            "cases": {
                pair.name: {
                    "kind": pair.kind,
                    "split": pair.split,
                    "verdicts": {tool: self.verdict(tool, pair) for tool in self.tools},
                    "findings": {
                        tool: _levels(trial) for tool in self.tools if (trial := self.of(tool, pair.name, "faulty"))
                    },
                }
                for pair in self.faults()
            },
            "accused": {
                tool: [
                    {
                        "case": one.case,
                        "role": one.role,
                        "findings": [f"{f.level}: {f.name}" for f in one.outcome.findings],
                    }
                    for one in self.accusations(tool)
                ]
                for tool in self.tools
            },
        }


def drawing(board: Scoreboard) -> str:
    """What each tool names, against what it says of correct programs, on both halves."""
    points = []
    for tool in board.tools:
        rows = [board.row(tool, split) for split in SPLITS]
        named, alarms = (
            sum(getattr(row, name)[0] for row in rows) / max(1, sum(getattr(row, name)[1] for row in rows))
            for name in ("named", "warned")
        )
        points.append(Point(tool, alarms, named, tool.startswith(UNDECLARED)))
    return picture(points, "Faults that are named, against alarms on correct programs")


VERDICTS = ("named", "flagged", "warned", "silent", "cannot")
SIGNS = {"named": "●", "flagged": "◐", "warned": "○", "silent": "·", "cannot": "–"}


def _has_error(trial: Trial) -> bool:
    return any(one.level == "error" for one in trial.outcome.findings)


def _levels(trial: Trial) -> list[str]:
    return [f"{one.level}: {one.name}" for one in trial.outcome.findings]


def _share(hits: tuple[int, int], milder: tuple[int, int] | None = None) -> str:
    low, high = wilson(*hits)
    more = f" ({milder[0]})" if milder else ""
    return f"{hits[0]}{more}/{hits[1]} [{100 * low:.0f}–{100 * high:.0f} %]"


def text(board: Scoreboard, head: Sequence[str], reasons: Mapping[str, str]) -> str:
    """The page.

    Args:
        board: what was measured.
        head: lines about versions and place.
        reasons: why ours misses a case, by the case's name.
    """
    lines = ["# Scoreboard: silent training faults, and who sees them", "", *head, "", WORDS, ""]
    lines += ["![Faults that are named, against alarms on correct programs](scoreboard.svg)", ""]
    for split in SPLITS:
        lines += [
            f"## Half `{split}`",
            "",
            "| tool | flagged | rightly named | accused | cannot run |",
            "|---|---|---|---|---|",
        ]
        for tool in board.tools:
            row = board.row(tool, split)
            cells = [
                _share(row.flagged, row.spoken), _share(row.named), _share(row.accused, row.warned),
                f"{row.cannot[0]}/{row.cannot[1]}",
            ]  # fmt: skip
            lines.append(f"| {tool} | {' | '.join(cells)} |")
        whole = max((board.row(tool, split).cannot[1] for tool in board.tools), default=0)
        lines += [*(f"| {name} | – | – | – | {whole}/{whole} |" for name in NOT_RUN), ""]
    return "\n".join([*lines, *_costs(board), *_matrix(board), *_cases(board, reasons), *_accusations(board), ""])


def _costs(board: Scoreboard) -> list[str]:
    lines = ["## The tools", "", "| tool | how it was run | version | seconds | MiB |", "|---|---|---|---|---|"]
    for tool in TOOLS:
        runs = [one for (name, _, _), one in board.trials.items() if name == tool.name]
        if runs:
            seconds, size = (statistics.median(getattr(one, name) for one in runs) for name in ("seconds", "mebibytes"))
            lines.append(f"| {tool.name} | {tool.how} | {tool.version} | {seconds:.1f} | {size:.0f} |")
    return [*lines, *(f"| {name} | not run: {why} | | | |" for name, why in NOT_RUN.items()), ""]


def _matrix(board: Scoreboard) -> list[str]:
    lines = ["## Kinds", "", "Rightly named / flagged by error or warning / cases.", ""]
    lines += [f"| kind | {' | '.join(board.tools)} |", "|---" * (1 + len(board.tools)) + "|"]
    for kind in sorted({pair.kind for pair in board.faults()}):
        cells = []
        for tool in board.tools:
            verdicts = [board.verdict(tool, pair) for pair in board.faults(kind=kind)]
            spoken = sum(one in ("named", "flagged", "warned") for one in verdicts)
            cells.append(f"{verdicts.count('named')} / {spoken} / {len(verdicts)}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cases(board: Scoreboard, reasons: Mapping[str, str]) -> list[str]:
    signs = ", ".join(f"{sign} {name}" for name, sign in SIGNS.items())
    lines = ["## Cases", "", f"{signs}. The last column: what ours says, or why it does not name the case.", ""]
    lines += [f"| case | half | {' | '.join(board.tools)} | ours |", "|---" * (3 + len(board.tools)) + "|"]
    for pair in board.faults():
        cells = [SIGNS[board.verdict(tool, pair)] for tool in board.tools]
        trial = board.of(board.tools[0], pair.name, "faulty")
        said = "; ".join(f"{one.name} ({one.level})" for one in trial.outcome.findings) if trial else ""
        if all(board.verdict(tool, pair) != "named" for tool in board.tools[:2]):
            said = ". ".join(filter(None, (said, reasons.get(pair.name, "no rule has said anything"))))
        lines.append(f"| {pair.name} | {pair.split} | {' | '.join(cells)} | {said} |")
    return [*lines, ""]


def _accusations(board: Scoreboard) -> list[str]:
    lines = ["## Correct programs of which something is said", ""]
    for tool in board.tools:
        found = board.accusations(tool)
        lines += [f"**{tool}**: {len(found)}" + (", the ten first:" if len(found) > 10 else ""), ""]
        shown = found if tool.startswith(UNDECLARED) else found[:10]
        lines += [
            f"* {one.case} ({one.role}): {', '.join(sorted({f'{f.name} ({f.level})' for f in one.outcome.findings}))}"
            for one in shown
        ]
        lines.append("")
    return lines
