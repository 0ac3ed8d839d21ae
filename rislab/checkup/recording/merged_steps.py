"""Steps of a long run of which a few numbers each are kept, as many others of their kind are kept in full."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

# A raw loss, its samples, and the equal parts that it is the mean of.
Loss = tuple[float, int, float]
# So many steps, and losses, are kept as numbers.
MOST = 2**20
_NO_TICKS = -(2**31)


class StepNumbers(NamedTuple):
    """What rules of schedules ask of a step."""

    rate: float | None  # largest of its learning rates, None if it has none
    ticks: int | None  # of the scheduler so far, None without one
    losses: int  # raw ones that came since the step before
    applied: bool  # False for a step that a scaler left out
    where: str  # file and line of the step


class _Kind(NamedTuple):
    """What steps have in common."""

    rated: bool
    losses: int
    applied: bool
    where: str


class MergedSteps:
    """Steps in order: 16 bytes each, and 20 for each of their losses."""

    def __init__(self) -> None:
        self._rates, self._ticks, self._places = array("d"), array("i"), array("i")
        self._losses, self._counts, self._samples = array("d"), array("d"), array("i")
        self._kinds: dict[_Kind, int] = {}
        self._last: tuple[int, int, bool, tuple[str, ...]] = 0, 0, False, ()  # kind, size and kinds of losses
        self.sizes: Counter[int] = Counter()  # steps that were taken, by the micro-batches of their windows
        self.kinds_of_losses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def losses(self) -> int:
        """Number of raw losses."""
        return len(self._losses)

    @property
    def full(self) -> bool:
        """Whether no more can be kept."""
        return len(self._places) >= MOST or len(self._losses) >= MOST

    def add(self, numbers: StepNumbers, size: int, kinds: Iterable[str], losses: Sequence[Loss]) -> None:
        """Keep the numbers of one more step, the size of its window, and what is to be counted of its losses."""
        kind = _Kind(numbers.rate is not None, numbers.losses, numbers.applied, numbers.where)
        self._last = self._kinds.setdefault(kind, len(self._kinds)), size, numbers.applied, (*kinds,)
        self.add_alike(numbers.rate, numbers.ticks, losses)

    def add_alike(self, rate: float | None, ticks: int | None, losses: Sequence[Loss]) -> None:
        """Keep the numbers of one more step of the kind of the one before, with as many losses."""
        place, size, applied, kinds = self._last
        self._places.append(place)
        self._rates.append(rate or 0.0)
        self._ticks.append(_NO_TICKS if ticks is None else ticks)
        self.sizes[size] += applied
        for kind in kinds:
            self.kinds_of_losses[kind] += 1
        for loss, samples, count in losses:
            self._losses.append(loss)
            self._samples.append(samples)
            self._counts.append(count)

    def numbers(self) -> Iterator[StepNumbers]:
        """Those of each step."""
        kinds = [*self._kinds]
        for place, rate, ticks in zip(self._places, self._rates, self._ticks, strict=True):
            rated, losses, applied, where = kinds[place]
            yield StepNumbers(rate if rated else None, None if ticks == _NO_TICKS else ticks, losses, applied, where)

    def raw_losses(self) -> Iterator[list[Loss]]:
        """Those of each step."""
        kinds, first = [*self._kinds], 0
        for place in self._places:
            last = first + kinds[place].losses
            numbers = self._losses[first:last], self._samples[first:last], self._counts[first:last]
            yield [*zip(*numbers, strict=True)]
            first = last
