"""Which windows of a loop are compared: the first ones, then ever more rarely, and again after a change."""

from __future__ import annotations

from rislab.checkup.recording.trace import Step

# Windows compared at the beginning, and after a change.
FIRST, AFTER_A_CHANGE = 8, 2
# Distance to the next window, as a share of those so far; and the largest distance.
GROWTH, LARGEST = 0.125, 50
# Where each n-th window is compared, the network is asked for its weights in so many at first, then in each so many.
ALWAYS, SELDOM = 64, 8


class Sampling:
    """Chooses windows: each n-th one, or the first ones, then ever more rarely, and again after a change."""

    def __init__(self, every: int | None) -> None:
        self._every = every
        self._windows = 0
        self._next = 0
        self._due = FIRST
        self._changes = 0
        self._kind: tuple[object, ...] | None = None
        self._evaluated = False

    def wanted(self) -> bool:
        """Whether the window that now begins is to be compared."""
        number, self._windows = self._windows, self._windows + 1
        if self._every is not None:
            return number % self._every == 0
        if self._due:
            self._due -= 1
        elif number < self._next:
            return False
        self._next = number + 1 + min(LARGEST, int(GROWTH * number))
        return True

    @property
    def anew(self) -> bool:
        """Whether the network is to be asked for its weights in the window that wanted() was last asked for."""
        number = self._windows - 1
        return self._every is None or number < ALWAYS or number % (SELDOM * self._every) == 0

    def note_evaluation(self) -> None:
        """A forward without gradients came: perhaps an epoch is over."""
        if not self._evaluated:
            self._evaluated = True
            self.note_change()

    def note_change(self) -> None:
        """Something changed: compare the next windows. Changes that come again and again count ever less."""
        self._changes += 1
        # The 1st, 2nd, 4th, 8th … change.
        if self._changes & (self._changes - 1) == 0:
            self._due = max(self._due, AFTER_A_CHANGE)

    def note_step(self, step: Step) -> None:
        """A window is over: another number of micro-batches, mode or size of the learning rate is a change."""
        self._evaluated = False
        training = step.micro_batches[0].training if step.micro_batches else True
        kind = (len(step.micro_batches), training, len(step.rates), step.applied)
        if self._kind is not None and kind != self._kind:
            self.note_change()
        self._kind = kind
