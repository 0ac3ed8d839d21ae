"""Which events an observer looks at: the first of each kind, of an object that is gone none."""

from __future__ import annotations

from torch import nn

from rislab.checkup.recording.looks import FIRST, Looks


def test_the_first_events_of_each_kind_are_looked_at() -> None:
    looks, few = Looks(), Looks(first=2)
    assert [looks.wanted("step") for _ in range(FIRST)] == [True] * FIRST
    assert looks.wanted("forward")
    chosen = [place for place in range(1000) if few.wanted("step")]
    assert chosen[:2] == [0, 1] and 10 < len(chosen) < 100


def test_an_object_at_the_address_of_one_that_is_gone_is_new() -> None:
    """A loop that makes a network for each step has each of them looked at, whatever its address."""
    looks, addresses = Looks(first=1), set()
    for _ in range(300):
        network = nn.Linear(1, 1)
        addresses.add(id(network))
        assert looks.wanted_at(network)
    assert len(addresses) < 300, "no address came again: the test shows nothing"
