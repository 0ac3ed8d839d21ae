"""Objects that are alive, by their kind: optimisers, schedulers, networks that nobody handed over."""

from __future__ import annotations

import gc
from itertools import compress
from typing import Any

from torch.optim.optimizer import Optimizer

# With so many classes or more, it takes less time to ask each object for its own.
CLASSES = 64


def living_objects(kinds: tuple[type, ...], young: bool = False, subclasses: bool = True) -> list[Any]:
    """All objects of some classes and of their subclasses that Python's collector knows.

    Args:
        kinds: classes. Objects are asked by their type alone: some answer to isinstance() with code of their own.
        young: only those that were made lately, which are few.
        subclasses: whether those of subclasses are wanted too.
    """
    classes = [kind for one in kinds for kind in _with_subclasses(one)] if subclasses else [*kinds]
    # Types are told apart by identity: some have a hash of their own.
    wanted = {*map(id, classes)}
    if young:
        # A list under construction would stand in itself.
        objects = gc.get_objects(0) + gc.get_objects(1)
    else:
        # An object refers to its class. There are some hundred thousand: no line of Python for each.
        objects = gc.get_referrers(*classes) if len(classes) < CLASSES else gc.get_objects()
    return [*compress(objects, map(wanted.__contains__, map(id, map(type, objects))))]


def _with_subclasses(kind: type) -> list[type]:
    subclasses: list[type] = type.__subclasses__(kind)
    return [kind, *(other for one in subclasses for other in _with_subclasses(one))]


def living_optimizers(young: bool = False) -> list[Optimizer]:
    """All optimisers that are made to their end, or those that were made lately."""
    return [one for one in living_objects((Optimizer,), young) if "param_groups" in vars(one)]
