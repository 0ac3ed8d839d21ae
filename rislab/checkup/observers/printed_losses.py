"""Losses that a loop prints, one line an epoch, held against the raw losses since the line before.

Only what fits a wrong mean in all lines, to its last digit, and the right one in none, is told.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor
from torch.nn import Module

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.loaders import LoaderPasses
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.recording.averaged_losses import reduction_of
from rislab.checkup.recording.events import MANY, LossEvent, Observer, Roots
from rislab.checkup.recording.interception import ELEMENTS, TARGETS
from rislab.checkup.recording.printed_lines import (
    OF_SUMS,
    ROUNDING,
    Line,
    Printed,
    PrintedLines,
    are_precise,
    columns,
    error_of,
    fits,
)
from rislab.checkup.rules import Code

# Losses that are held; lines, and losses before each, that tell anything.
LOSSES, FEWEST, BEFORE = 4096, 3, 2
# One number alone, printed at the end, must be so exact.
EXACT = 1e-5
# Backwards in a row that began at the same multiple of their losses.
ALIKE = 16
# A dataset of so much more or less than the samples that were used is another divisor.
OTHER = 0.1
# What nobody asks for, where a line says that it is the loss, and does not say that it is a sum.
CERTAIN = ("sum never set back", "mean of unequal means")


@dataclass
class _Epoch:
    """What was printed of some losses."""

    losses: list[float]  # raw ones since the line before
    samples: list[int]  # of each
    steps: int  # since the line before
    before: float  # sum of all losses that came earlier

    def means(self) -> tuple[float, float]:
        """Over batches, and over samples."""
        weighed = sum(loss * count for loss, count in zip(self.losses, self.samples, strict=True))
        return sum(self.losses) / len(self.losses), weighed / sum(self.samples)

    def right(self) -> tuple[float, ...]:
        """What may be meant: both means, and the sums that they are made of."""
        mean, by_samples = self.means()
        return mean, by_samples, mean * len(self.losses), by_samples * sum(self.samples)

    def wrong(self, sizes: Iterable[int]) -> list[tuple[str, float]]:
        """What each fault would print; by the sizes of datasets a sum over a part of their samples may be divided."""
        mean, by_samples = self.means()
        number, samples = len(self.losses), sum(self.samples)
        size = number / self.steps if self.steps else 1.0
        apart = {one: abs(one - samples) > OTHER * samples for one in sorted(sizes)}
        return [
            ("sum of means over the set's size", sum(self.losses) / samples),
            ("logged after the division", mean / size),
            ("last over n", self.losses[-1] / number),
            ("first over n", self.losses[0] / number),
            ("sum never set back", mean + self.before / number),
            # The last batch, a short one, times the size of a full one.
            ("mean of unequal means", sum(self.losses) * max(self.samples) / samples),
            ("another loss reported", by_samples * samples / number),
            *(("another loss reported", by_samples * samples / one if far else math.nan) for one, far in apart.items()),
        ]


class PrintedLosses(Observer):
    """Listens to print(), and to the losses of torch that are means; `loaders` know how large the datasets are."""

    def __init__(self, loaders: LoaderPasses, steps: StepCount) -> None:
        self._loaders, self._steps = loaders, steps
        self._lines = PrintedLines()  # each after so many losses and steps
        self._known = 0  # losses before the last backward
        self._losses: list[tuple[Tensor | float, int]] = []
        self._last: Callable[[], Tensor | None] = lambda: None  # the last of them, while it lives
        self._backwards = self._samples = 0
        self._share, self._same = 0.0, 0  # of a loss in what backward() is called on, and backwards that agree
        self._apart = False  # whether there are many more backwards than losses, or fewer
        self._counted = False  # whether the loss of the next backward may have come while windows were only counted

    def on_print(self, line: Printed) -> None:
        if self._losses and len(self._losses) < LOSSES:
            self._lines.add(line, (len(self._losses), self._steps.total))

    def on_loss(self, call: LossEvent) -> None:
        mean = call.function in (*ELEMENTS, *TARGETS) and reduction_of(call.kwargs) == "mean"
        output, given = call.output, call.args[0] if len(call.args) in (1, 2) else None
        if not mean or not isinstance(output, Tensor) or not output.requires_grad or output.dim():
            return
        if isinstance(given, Tensor) and given.dim() and len(self._losses) < LOSSES:
            self._losses.append((output.detach(), len(given)))
            self._last = weakref.ref(output)
            self._counted = False

    def on_backward(self, roots: Roots) -> bool:
        root = roots[0][0] if len(roots) == 1 and roots[0][0].numel() == 1 else None
        if self._counted and root is not None:
            # Its loss came while windows were only counted.
            self.count_backward(root, float(root.item()))
        elif len(self._losses) < LOSSES:
            self._backwards += 1
            self._join(root)
            share = 1.0 if root is not None and self._last() is root else self._share_of(root)
            same = share and abs(share - self._share) <= ROUNDING * abs(share)
            self._share, self._same = share, self._same + 1 if same else 0
            # Losses that are not known, or are sums of others, tell nothing.
            self._apart |= abs(len(self._losses) - self._backwards) > ALIKE
        return self._apart

    def _join(self, root: Tensor | None) -> None:
        """Of several means since the last backward, as of two targets that are mixed, what it begins at is the loss."""
        new = self._losses[self._known :]
        if root is not None and len(new) >= BEFORE and not root.is_complex():
            terms, value = [float(loss) for loss, _ in new], float(root.detach())
            # One of two that have a backward each is a loss of its own.
            if min(terms) < value < max(terms) or math.isclose(value, sum(terms), rel_tol=1e-5):
                self._losses[self._known :] = [(value, new[-1][1])]
        self._known = len(self._losses)

    def _share_of(self, root: Tensor | None) -> float:
        """The last loss over what a backward begins at; 0 if that is no real number."""
        value = 0.0 if root is None or root.is_complex() else float(root.detach())
        return float(self._losses[-1][0]) / value if value and self._losses else 0.0

    def may_count(self) -> int:
        """Losses are known from the backwards, or not needed: there are many, or some are sums of others."""
        known = self._apart or self._same >= ALIKE or len(self._losses) >= LOSSES
        return MANY if known or abs(len(self._losses) - self._backwards) > 1 else 0

    def end_counting(self, clips: int) -> None:
        """The loss of the next backward may have come already."""
        self._counted = True

    def count_forward(self, module: Module, samples: int) -> bool:
        self._samples = samples
        return True

    def count_backward(self, root: Tensor, value: float) -> bool:
        """A backward begins, of which the loss is a share."""
        self._counted = False
        if len(self._losses) < LOSSES:
            self._losses.append((value * self._share, self._samples))
            self._backwards += 1
        return True

    def findings(self) -> list[Finding]:
        if self._apart or abs(len(self._losses) - self._backwards) > 1:
            return []  # a loss is a sum of others
        losses, samples = [float(loss) for loss, _ in self._losses], [count for _, count in self._losses]
        results = []
        for (text, where), printed in self._lines.kinds.items():
            lines = _of_epochs(text, printed, len(losses))
            epochs = [
                _Epoch(losses[first:last], samples[first:last], after - before, sum(losses[:first]))
                for (first, before), (last, after) in pairwise([(0, 0), *(line.place for line in lines)])
            ]
            if (len(lines) >= FEWEST or lines is not printed) and all(len(epoch.losses) >= BEFORE for epoch in epochs):
                for name, evidence in [*_wrong_columns(lines, epochs, self._loaders.sizes)][:1]:
                    certain = name in CERTAIN and len(lines) > FEWEST and _is_a_loss(text)
                    certain = certain and not any(_is_right(column, epochs) for column in columns(lines))
                    evidence += ", and no number of the line is a mean of these losses" * certain
                    results.append((as_fault if certain else as_warning)(Code.REPORT, name, evidence, where))
        return results


def _of_epochs(text: str, lines: list[Line], losses: int) -> list[Line]:
    """Lines as they are; of a list that is printed once, a line for each number, as of epochs of one length."""
    numbers, (count, steps) = lines[0].numbers, lines[0].place
    size = len(numbers)
    if len(lines) > 1 or count < losses:
        return lines
    if "[" in text and size >= FEWEST and count % size == 0:
        places = [(count * place // size, steps * place // size) for place in range(1, size + 1)]
        return [Line([number], place) for number, place in zip(numbers, places, strict=True)]
    exact = all(error_of(one) <= EXACT * abs(float(one)) for one in numbers)
    return [*lines] if exact else lines


def _is_a_loss(text: str) -> bool:
    """Whether a line calls its number a loss, and not a sum."""
    words = text.lower()
    return "loss" in words and not any(word in words for word in OF_SUMS)


def _is_right(column: Sequence[str], epochs: Sequence[_Epoch]) -> bool:
    """Whether most numbers of a column are a mean, or a sum, of the losses before."""
    right = zip(*(epoch.right() for epoch in epochs), strict=True)
    return 2 * sum(sum(fits(column, values, 4)) for values in right) > len(column)


def _wrong_columns(lines: list[Line], epochs: list[_Epoch], sizes: Iterable[int]) -> Iterator[tuple[str, str]]:
    """Names and evidence of the numbers of lines that are a wrong mean in all of them."""
    for column in columns(lines):
        if not are_precise(column) or _is_right(column, epochs):
            continue
        for place, (name, _) in enumerate(epochs[0].wrong(sizes)):
            if all(fits(column, [epoch.wrong(sizes)[place][1] for epoch in epochs])):
                text = f"{column[-1]} was printed, where the {len(epochs[-1].losses)} losses since the line before "
                text += f"have the mean {epochs[-1].means()[1]:.6g}; all {len(column)} lines fit this fault"
                yield name, text
                break
