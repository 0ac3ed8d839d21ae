"""What all panels share, shown with the smallest ones: one that counts, and one that answers the newest request."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch

from rislab.errors import InputError
from rislab.panels.background_task import BackgroundTask, LatestOnly
from rislab.panels.base import Panel, RequestPanel, UserInput


def count(stop: int = 3, seconds: float = 0.0) -> Generator[int]:
    for number in range(stop):
        time.sleep(seconds)
        yield number


class Counting(Panel[list[int]]):
    """Collects what a generator yields; draws by a function that a test may give."""

    def __init__(
        self, stream: Callable[[], Generator[int]] = count, draw: Callable[[], None] = lambda: None, live: bool = True
    ) -> None:
        self.numbers: list[int] = []
        self.given, self.drawings = draw, 0
        super().__init__(live=live)
        self.own = BackgroundTask(lambda: self._collect(stream), self.redraw)
        self.own.start()

    def _collect(self, stream: Callable[[], Generator[int]]) -> Generator[int]:
        for number in stream():
            self.numbers.append(number)
            yield number

    @property
    def task(self) -> BackgroundTask[Any] | None:
        return vars(self).get("own")

    def result(self) -> list[int]:
        return self.numbers

    def build(self) -> tuple[Any, Callable[[], None]]:
        return self.alarm, self._count_drawing

    def _count_drawing(self) -> None:
        self.drawings += 1
        self.given()

    def static(self) -> dict[str, Any]:
        return {"text/plain": "numbers"}


class Squaring(RequestPanel[int, list[int]]):
    """Squares numbers in two stages; a test holds it up at the first."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.squares: list[int] = []
        self.drawn: list[int] = []
        self.gate = threading.Event()
        super().__init__(live=True)

    def work(self, request: int) -> Generator[object]:
        self.begun.append(request)
        yield
        assert self.gate.wait(120)
        if request < 0:
            raise ValueError(f"{request} is negative")
        yield
        self.squares.append(request**2)

    def result(self) -> list[int]:
        return self.squares

    def build(self) -> tuple[Any, Callable[[], None]]:
        return self.alarm, lambda: self.drawn.append(len(self.squares))

    def static(self) -> dict[str, Any]:
        return {}


def awaited(panel: Panel[Any]) -> Any:
    async def wait() -> Any:
        return await panel

    return asyncio.run(wait())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def interrupted(panel: Panel[Any]) -> None:
    async def wait() -> Any:
        return await panel

    async def cancelled() -> None:
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(cancelled())


# ------------------------------------------------------------------------------------------------------- one task


@pytest.mark.parametrize("live", [True, False])
def test_awaiting_gives_the_result_after_the_last_drawing(live: bool) -> None:
    states: list[str] = []
    panel = Counting(draw=lambda: (time.sleep(0.1), states.append(panel.state))[1])
    assert awaited(panel) == [0, 1, 2]
    assert panel.state == states[-1] == "finished"
    headless = Counting(live=False)
    assert awaited(headless) == [0, 1, 2]
    assert headless.widget is None and headless._repr_mimebundle_() == {"text/plain": "numbers"}


def test_an_exception_of_the_task_is_said_and_raised_each_time_it_is_awaited() -> None:
    def fails() -> Generator[int]:
        yield 0
        raise ZeroDivisionError("<in> the run")

    panel = Counting(fails)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="in> the run"):
            awaited(panel)
    assert (panel.state, panel.numbers) == ("failed", [0])
    assert "ZeroDivisionError: &lt;in&gt; the run" in panel.alarm.value and panel.alarm.layout.display == ""


def test_stop_ends_a_task_between_two_items() -> None:
    panel = Counting(lambda: count(10_000, 0.01))
    until(lambda: len(panel.numbers) > 2)
    panel.stop()
    assert len(awaited(panel)) < 10_000
    assert panel.state == "stopped"


def test_an_interrupted_await_stops_the_task() -> None:
    panel = Counting(lambda: count(10_000, 0.01))
    interrupted(panel)
    assert panel.state == "stopped" and len(panel.numbers) < 10_000


def test_an_interrupt_does_not_wait_for_an_item_that_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rislab.panels.base.JOIN_SECONDS", 0.1)
    gate = threading.Event()

    def slow() -> Generator[int]:
        yield int(gate.wait(120))

    panel = Counting(slow)
    began = time.monotonic()
    interrupted(panel)
    assert time.monotonic() - began < 5 and panel.state == "running"
    gate.set()
    panel.settle()
    assert panel.state == "stopped"


def test_awaiting_a_panel_without_a_task_waits_for_the_first() -> None:
    panel = Counting()
    panel.settle()
    own = vars(panel).pop("own")
    assert panel.state == "waiting" and panel.error is None
    threading.Timer(0.1, lambda: vars(panel).update(own=own)).start()
    assert awaited(panel) == [0, 1, 2]
    panel.stop()


def test_settling_has_an_end() -> None:
    panel = Counting(lambda: count(10_000, 0.01))
    with pytest.raises(TimeoutError, match=r"still at work after 0.05 s"):
        panel.settle(0.05)
    panel.stop()
    panel.settle()


def test_the_worker_uses_the_threads_of_the_notebook() -> None:
    threads: list[int] = []

    def stream() -> Generator[int]:
        threads.append(torch.get_num_threads())
        yield from ()

    task = BackgroundTask(stream)
    task.start()
    task.start()
    assert task.join(120) and threads == [torch.get_num_threads()]


@pytest.mark.parametrize(("costs", "ticks"), [(0.0, 54), (0.005, 58), (0.05, 11)])
def test_slow_drawings_come_less_often(costs: float, ticks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock, drawn = Clock(), [0]

    def stream() -> Generator[int]:
        for number in range(1000):
            clock.now += 0.01
            yield number

    def tick() -> None:
        clock.now += costs
        drawn[0] += 1

    monkeypatch.setattr("rislab.panels.background_task.time", clock)
    task = BackgroundTask(stream, tick)
    task.start()
    assert task.join(120)
    # 10 s of items: a tick each 0.19 s, or as often as leaves 19/20 of the time to the work; and one at the end.
    assert abs(drawn[0] - ticks) <= 2
    assert (drawn[0] - 2) * costs <= clock.now / 20


# ------------------------------------------------------------------------------------------------------ drawing


def test_a_drawing_error_is_said_and_ends_neither_the_task_nor_the_drawings_after_it() -> None:
    def draw() -> None:
        if panel.drawings == 1:
            raise RuntimeError("no <ink>")

    panel = Counting(lambda: (yield from count(4, 0.1)), draw)
    until(lambda: panel.drawing_error is not None)
    assert panel.problem == "the figure could not be drawn: RuntimeError: no <ink>"
    assert awaited(panel) == [0, 1, 2, 3]
    # The next drawing went well, so that nothing is wrong any more.
    assert panel.drawings > 1
    assert (panel.problem, panel.alarm.value, panel.alarm.layout.display) == ("", "", "none")


def test_a_drawing_error_that_stays_is_said_at_the_end_and_is_no_error_of_the_task() -> None:
    def draw() -> None:
        raise RuntimeError("no ink")

    panel = Counting(draw=draw)
    assert awaited(panel) == [0, 1, 2]
    assert panel.error is None and panel.state == "finished"
    assert "could not be drawn: RuntimeError: no ink" in panel.alarm.value


def test_a_figure_that_fails_when_the_page_is_ready_for_it_is_said() -> None:
    panel = Counting()
    awaited(panel)
    plot = panel.plot({"data": [], "layout": {}})

    def fails() -> Any:
        raise RuntimeError("no ink")

    plot.update(fails)
    assert panel.problem == ""
    plot.state.drawn = 1
    until(lambda: "no ink" in panel.alarm.value)
    plot.update({"data": [], "layout": {}})
    plot.flush()
    panel.redraw()
    assert panel.alarm.value == ""


def test_one_thread_draws_and_leaves_no_state_undrawn() -> None:
    inside, most = [0], [0]
    shown: list[int] = []
    panel = Counting(live=False)
    awaited(panel)
    state = [0]

    def draw() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        now = state[0]
        time.sleep(0.005)
        shown.append(now)
        inside[0] -= 1

    panel._draw = draw

    def change(number: int) -> None:
        for _ in range(50):
            state[0] += 1
            panel.redraw()

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and shown[-1] == state[0] == 200


def test_a_refused_input_is_said_until_one_is_taken() -> None:
    panel = Counting()
    awaited(panel)

    def refuse() -> None:
        raise InputError("lr is -1; allowed: > 0")

    assert panel.attempt(refuse) is False
    assert panel.problem == "lr is -1; allowed: > 0" and "lr is -1; allowed: &gt; 0" in panel.alarm.value
    assert panel.attempt(lambda: None) is True
    assert panel.problem == panel.alarm.value == ""


def test_what_a_drawing_sets_is_no_input() -> None:
    import ipywidgets as widgets

    panel = Counting(live=False)
    awaited(panel)
    field, heard = widgets.IntText(0), []
    panel.user_input.observe(field, heard.append)
    field.value = 1
    panel._draw = lambda: setattr(field, "value", 2)
    panel.redraw()
    field.value = 3
    assert heard == [1, 3]


# ------------------------------------------------------------------------------------------- the newest request wins


def test_only_the_newest_request_is_finished() -> None:
    panel = Squaring()
    panel.submit(1)
    until(lambda: panel.begun == [1])
    for request in (2, 3, 4):
        panel.submit(request)
    assert panel.state == "running" and panel.requests.superseded
    panel.gate.set()
    assert awaited(panel) == [16]
    # The first was given up at its second yield, and the two between never began.
    assert panel.begun == [1, 4] and not panel.requests.superseded
    panel.submit(5)
    assert awaited(panel) == [16, 25]
    assert panel.drawn[-1] == 2


def test_a_newer_request_does_not_wait_for_a_long_part_of_the_one_before() -> None:
    class Patient(Squaring):
        def work(self, request: int) -> Generator[object]:
            if request == 1:
                yield from self.aside(long_part)
            yield from super().work(request)

    def long_part() -> None:
        begun.set()
        end.wait(120)

    begun, end, panel = threading.Event(), threading.Event(), Patient()
    panel.gate.set()
    panel.submit(1)
    assert begun.wait(120)
    drawn = len(panel.drawn)
    time.sleep(0.05)
    assert len(panel.drawn) == drawn  # waiting is no news
    panel.submit(2)
    assert awaited(panel) == [4]
    end.set()


def test_requests_from_many_threads_are_never_forgotten() -> None:
    done: list[int] = []

    def work(request: int) -> Generator[object]:
        done.append(request)
        yield

    requests = LatestOnly(work)
    for request in range(2000):
        requests.submit(request)
        if request % 3 == 0:
            time.sleep(0)
    assert requests.task.join(120)
    assert done[-1] == 1999 and done == sorted(done)


def test_the_error_of_the_last_request_is_raised_and_the_next_request_is_worked_on() -> None:
    panel = Squaring()
    panel.gate.set()
    panel.submit(-1)
    with pytest.raises(ValueError, match="-1 is negative"):
        awaited(panel)
    assert panel.state == "failed" and "ValueError: -1 is negative" in panel.alarm.value
    panel.submit(2)
    assert awaited(panel) == [4]
    assert panel.error is None and panel.alarm.value == ""
    panel.submit(-2)
    panel.settle()
    assert panel.state == "failed"
    panel.requests.forget()
    assert (panel.state, panel.error) == ("waiting", None)


def test_the_error_of_a_request_that_is_no_longer_wanted_is_dropped() -> None:
    panel = Squaring()
    panel.submit(-1)
    until(lambda: panel.begun == [-1])
    time.sleep(0.05)
    panel.submit(3)
    panel.gate.set()
    assert awaited(panel) == [9]
    assert panel.error is None


def test_an_interrupt_drops_what_waits_and_the_panel_can_be_used_again() -> None:
    panel = Squaring()
    panel.submit(1)
    until(lambda: panel.begun == [1])
    panel.submit(2)
    threading.Timer(0.3, panel.gate.set).start()
    interrupted(panel)
    assert panel.state == "stopped" and panel.begun == [1]
    panel.submit(3)
    assert awaited(panel) == [9]


def test_a_panel_that_was_asked_nothing_gives_its_result_at_once() -> None:
    assert awaited(Squaring()) == []


def test_the_panels_own_changes_are_no_input_of_the_user() -> None:
    import ipywidgets as widgets

    inputs: list[int] = []
    slider, user_input = widgets.IntSlider(), UserInput()
    user_input.observe(slider, inputs.append)
    slider.value = 1
    with user_input.paused():
        slider.value = 2
        with user_input.paused():
            slider.value = 3
        slider.value = 4
        # Another thread may serve the user meanwhile.
        other = threading.Thread(target=lambda: setattr(slider, "value", 5))
        other.start()
        other.join()
    slider.value = 6
    assert inputs == [1, 5, 6]
