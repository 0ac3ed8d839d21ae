"""An example of each rule of the checkup: a loop that it flags, and the same loop mended.

They stand in the folder `examples`, one file a rule. A line that ends with `# wrong` is of the first, one with
`# right` of the second, all others are of both.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rislab.checkup.findings import Findings

FOLDER = Path(__file__).parent / "examples"
MARKS = {"# wrong": "-", "# right": "+"}


@dataclass(frozen=True)
class RuleExample:
    """A loop, wrong and right."""

    # Each with the mark "-" if it is of the wrong one alone, "+" of the right one alone, " " of both.
    lines: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, code: str) -> RuleExample:
        """The example of a rule."""
        return cls(tuple(map(_marked, (FOLDER / f"{code}.txt").read_text(encoding="utf-8").splitlines())))

    def source(self, mark: str) -> str:
        """The source of the wrong loop, for "-", or of the right one, for "+"."""
        return "".join(f"{line}\n" for own, line in self.lines if own in (mark, " "))

    def __str__(self) -> str:
        return "\n".join(f"{mark} {line}".rstrip() for mark, line in self.lines)


def _marked(line: str) -> tuple[str, str]:
    for word, mark in MARKS.items():
        if line.endswith(word):
            return mark, line.removesuffix(word).rstrip()
    return " ", line


def findings_of(source: str) -> Findings:
    """Run the source of an example, as `rislab checkup train.py` does, or for what it calls its `findings` itself."""
    from rislab.checkup.script import run_script

    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        path = Path("train.py")
        path.write_text(source, encoding="utf-8")
        if "\nfindings = " in source:
            return Findings(runpy.run_path(str(path))["findings"]).relative_to(os.getcwd())
        with contextlib.redirect_stdout(sys.stderr):
            return run_script(path).findings


class LoopNumbers(NamedTuple):
    """What was counted and compared in the loop of an example."""

    counts: dict[str, int]  # of forwards with gradients, backwards and steps, by these names
    sizes: list[int]  # losses before each step
    alphas: list[float]  # of the steps that were compared; 1 if the gradient is as long as its window's
    cosines: list[float]  # of the same steps; 1 if it points the same way

    def rows(self) -> dict[str, str]:
        """The numbers as text, by names."""
        rows = {name: str(count) for name, count in self.counts.items()}
        sizes = sorted(Counter(self.sizes).items())
        rows["steps after so many losses"] = ", ".join(f"{count} after {size}" for size, count in sizes)
        rows["α: 1 if the gradient is as long as its window's"] = _range(self.alphas)
        rows["cosine: 1 if it points the same way"] = _range(self.cosines)
        return rows


def numbers_of(source: str) -> LoopNumbers | None:
    """Run the source of an example; what was counted, and what its steps got; None if it trains nothing."""
    from rislab.checkup.process_watch import ProcessWatch
    from rislab.checkup.recording.windows import Declared, compare_steps

    with ProcessWatch(every=1) as watch:
        exec(compile(source, "train.py", "exec"), {"__name__": "__main__"})
    if not watch.tracked:
        return None
    trace = watch.tracked[0].recorder.trace
    compared = compare_steps(trace, Declared(mean=""))
    return LoopNumbers(
        {"forwards with gradients": trace.forwards, "backwards": trace.backwards, "steps": len(trace.taken)},
        [len(step.micro_batches) for step in trace.taken],
        [one.alpha for one in compared],
        [one.comparison.cosine for one in compared],
    )


def _range(values: list[float]) -> str:
    ends = dict.fromkeys(f"{end:.4g}" for end in (min(values), max(values))) if values else ["not compared"]
    return " to ".join(ends)


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
