"""Losses and scores of evaluations that a loop prints, held against what the batches of those evaluations gave.

Only what fits one wrong number in all lines, to its last digit, and a right one in none, is reported.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.loaders import LoaderPasses
from rislab.checkup.observers.printed_losses import OTHER
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.recording.averaged_losses import reduction_of
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer
from rislab.checkup.recording.interception import ELEMENTS, TARGETS
from rislab.checkup.recording.printed_lines import OF_SUMS, Printed, PrintedLines, are_precise, columns, fits
from rislab.checkup.rules import Code

# Batches that are held; lines, different numbers in them, and batches of an evaluation that tell anything.
BATCHES, LINES, DIFFERENT, SEVERAL = 4096, 4, 3, 2
LAST, UNEQUAL, SUM, OVER_SIZE, OTHER_NUMBER = (
    "only the last batch",
    "mean of unequal means",
    "sum never set back",
    "sum of means over the set's size",
    "divided by another number",
)
# So far from the share of right answers, a mean of unequal means misleads.
POINT = 0.01
WORDS = ("loss", "acc", "err", "score", "mse", "mae", "bce", "nll", "correct")
# Words of numbers that need not be of all batches.
OF_PARTS = ("batch", "last", "step", "iter")


class _Batch(NamedTuple):
    """A loss, or right answers, of one batch of an evaluation."""

    where: tuple[str, int]  # file and line that computed it, and how many there had been since the forward
    kind: str  # "score" of a comparison, "mean" or "sum" of a loss
    total: Tensor  # sum over samples
    samples: int
    turn: int  # pass over a loader, negative where a step came after its beginning


@dataclass
class _Evaluation:
    """Batches that one line computed in one pass."""

    totals: list[float]
    counts: list[int]
    kind: str
    of_a_loader: bool
    before: float  # sum of all totals of that line that came earlier
    earlier: float  # number of their samples

    def mean(self) -> float:
        """Over samples."""
        return sum(self.totals) / sum(self.counts)

    def means(self) -> list[float]:
        """Of each batch."""
        return [total / count for total, count in zip(self.totals, self.counts, strict=True)]

    def right(self) -> list[float]:
        """What may be meant: the mean over samples; its complement; of a loss also the mean over batches, and sums."""
        mean, means = self.mean(), self.means()
        if self.kind == "score":
            return [mean, 1 - mean]
        averages = [sum(given) / len(given) for given in (means, self.totals if self.kind == "sum" else means)]
        return [mean, *averages, sum(means), sum(self.totals)]

    def wrong(self, sizes: Iterable[int]) -> dict[tuple[str, str], float]:
        """What each fault would print, by its name and by what is divided by what."""
        means, total, samples = self.means(), sum(self.totals), sum(self.counts)
        batches, full = len(means), max(self.counts)
        results = {
            (UNEQUAL, "the mean of the batches' means"): sum(means) / batches,
            (SUM, "the sum of all evaluations so far"): (total + self.before) / samples,
            (SUM, "the mean of all evaluations so far"): (total + self.before) / (samples + self.earlier),
            (OVER_SIZE, "the sum of the batches' means over the samples"): sum(means) / samples,
            (OTHER_NUMBER, "the sum over the number of full batches"): total / (batches * full),
            (OTHER_NUMBER, "the sum over the number of batches"): total / batches,
            (OTHER_NUMBER, "the last batch over the number of batches"): means[-1] / batches,
        }
        if self.of_a_loader:
            results[LAST, "the last batch"] = means[-1]
        for size in sorted(sizes):
            # A smaller one may be that of sequences whose steps were evaluated one by one.
            if size > (1 + OTHER) * samples:
                results[OTHER_NUMBER, f"the sum over {size} samples of another set"] = total / size
        return {key: value for key, value in results.items() if key[0] != UNEQUAL or self.kind == "score"}


class PrintedEvaluations(Observer):
    """Listens to print(), and to losses and comparisons of evaluations; `loaders` know how large the datasets are."""

    def __init__(self, loaders: LoaderPasses, steps: StepCount) -> None:
        self._loaders, self._steps = loaders, steps
        self._lines = PrintedLines()  # each after so many batches
        self._batches: list[_Batch] = []
        self._samples = 0  # of the last forward, if it was one of an evaluation
        self._turn, self._begun = 1, -1  # the pass over a loader, and the steps before it
        self._since: Counter[str] = Counter()  # what lines have computed since that

    def on_forward_end(self, call: ForwardEvent) -> None:
        self._since.clear()
        self._samples = 0 if call.training and torch.is_grad_enabled() else call.samples

    def on_pass(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._turn, self._begun = self._turn + 1, self._steps.total

    def on_loss(self, call: LossEvent) -> None:
        given, reduction = call.args[0] if call.args else None, reduction_of(call.kwargs)
        if call.function not in (*ELEMENTS, *TARGETS) or reduction not in ("mean", "sum"):
            return
        output = call.output
        if isinstance(output, Tensor) and not output.dim() and isinstance(given, Tensor) and given.dim():
            value = output.detach()
            self._add(reduction, value * len(given) if reduction == "mean" else value.clone(), len(given))

    def on_comparison(self, given: Sequence[Any], output: Any) -> None:
        if isinstance(output, Tensor) and output.dtype is torch.bool and output.dim():
            self._add("score", output.sum(), output.numel())

    def _add(self, kind: str, total: Tensor, count: int) -> None:
        # What is no number a sample, as of the tokens of sequences, may be divided by whatever is meant.
        if count == self._samples > 0 and len(self._batches) < BATCHES:
            where = caller()[0]
            self._since[where] += 1
            turn = self._turn if self._begun == self._steps.total else -self._turn
            self._batches.append(_Batch((where, self._since[where]), kind, total, count, turn))

    def on_print(self, line: Printed) -> None:
        if self._batches and len(self._batches) < BATCHES:
            self._lines.add(line, len(self._batches))

    def findings(self) -> list[Finding]:
        results = []
        totals = [float(one.total) for one in self._batches]
        spans, before = _spans(self._batches), _sums_before(self._batches, totals)
        earlier = _sums_before(self._batches, [float(one.samples) for one in self._batches])
        for (text, where), lines in self._lines.kinds.items():
            if len(lines) < LINES:
                continue
            printed = [
                _evaluations(self._batches, totals, range(first, last), spans, [before, earlier])
                for first, last in pairwise([0, *(line.place for line in lines)])
            ]
            for column in columns(lines):
                finding = self._finding(text, where, column, printed)
                if finding is not None:
                    results.append(finding)
                    break
        return results

    def _finding(
        self, text: str, where: str, column: Sequence[str], printed: Sequence[Mapping[Any, _Evaluation]]
    ) -> Finding | None:
        """The fault of one column of numbers; `printed` are the evaluations before each."""
        if len(set(column)) < DIFFERENT or not are_precise(column) or _is_right(column, printed):
            return None
        for key in sorted(set.intersection(*(set(one) for one in printed))):
            evaluations = [one[key] for one in printed]
            for name, how in evaluations[0].wrong(self._loaders.sizes):
                values = [one.wrong(self._loaders.sizes).get((name, how), math.nan) for one in evaluations]
                scale = next((scale for scale in (1, 100) if all(fits(column, [scale * one for one in values]))), 0)
                if not scale or (scale == 100 and evaluations[0].kind != "score"):
                    continue
                last, words = evaluations[-1], text.lower()
                evidence = f"{column[-1]} was printed, which is {how}; the {len(last.counts)} batches of that "
                evidence += (
                    f"evaluation have the mean {scale * last.mean():.6g}; all {len(column)} lines fit this fault"
                )
                off = max(abs(value - one.mean()) for value, one in zip(values, evaluations, strict=True))
                certain = (name != UNEQUAL or off > POINT) and any(word in words for word in WORDS)
                certain = certain and not any(word in words for word in (*OF_SUMS, *OF_PARTS))
                return (as_fault if certain else as_warning)(Code.REPORT, name, evidence, where)
        return None


# A line that computes something of each batch: file and line, and how many it had computed since the forward.
_Where = tuple[str, int]


def _spans(batches: Sequence[_Batch]) -> dict[tuple[_Where, int], tuple[int, int]]:
    """The first and the last place of what each line computed in each pass."""
    spans: dict[tuple[_Where, int], tuple[int, int]] = {}
    for place, one in enumerate(batches):
        key = one.where, one.turn
        spans[key] = spans.get(key, (place, place))[0], place
    return spans


def _sums_before(batches: Sequence[_Batch], totals: Sequence[float]) -> list[float]:
    """For each batch, the sum of all totals of its line that came before."""
    sums, results = defaultdict[_Where, float](float), []
    for one, total in zip(batches, totals, strict=True):
        results.append(sums[one.where])
        sums[one.where] += total
    return results


def _evaluations(
    batches: Sequence[_Batch],
    totals: Sequence[float],
    printed: range,
    spans: Mapping[tuple[_Where, int], tuple[int, int]],
    before: Sequence[Sequence[float]],
) -> dict[tuple[_Where, int], _Evaluation]:
    """Evaluations in some places, by line and by number of the pass, from the last one, −1, backwards; 0: all."""
    places: dict[_Where, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place in printed:
        places[batches[place].where][batches[place].turn].append(place)
    # A line may be printed amid a pass.
    amid = {key for key, ends in spans.items() if key[1] > 0 and not all(place in printed for place in ends)}
    results = {}
    for where, passes in places.items():
        choices = {number - len(passes): [turn] for number, turn in enumerate(passes)}
        for key, turns in (choices | ({0: [*passes]} if len(passes) > 1 else {})).items():
            own = [place for turn in turns for place in passes[turn]]
            if len(own) >= SEVERAL and not any((where, turn) in amid for turn in turns):
                results[where, key] = _Evaluation(
                    [totals[place] for place in own],
                    [batches[place].samples for place in own],
                    batches[own[0]].kind,
                    key != 0 and turns[0] > 0,
                    *(sums[min(min(places) for places in passes.values())] for sums in before),
                )
    return results


def _is_right(column: Sequence[str], printed: Sequence[Mapping[Any, _Evaluation]]) -> bool:
    """Whether most numbers of a column are what one of the evaluations before them gave, as a share or in percent."""
    right = 0
    for number, evaluations in zip(column, printed, strict=True):
        given = [value for one in evaluations.values() for value in one.right()]
        right += any(any(fits([number], [scale * value], 4)) for value in given for scale in (1, 100))
    return 2 * right > len(column)
