"""Docstrings of every public name: each parameter, shapes of tensors, what comes back, and what is raised."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import rislab
from rislab.config import Config

PACKAGES = ["rislab", *(f"rislab.{room}" for rooms in rislab.ROOMS.values() for room in rooms)]
# Names that may lack something; the test prints how many do.
LACKING = 0


def public_names() -> Iterator[tuple[str, Any]]:
    """Functions and classes among the names of the packages, each once."""
    known: set[int] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if (inspect.isfunction(value) or inspect.isclass(value)) and id(value) not in known:
                known.add(id(value))
                yield f"{package}.{name}", value


def shortfall(value: Any) -> list[str]:
    """What the docstring of a function or class lacks."""
    made = inspect.getdoc(value.__init__) if inspect.isclass(value) and "__init__" in vars(value) else ""
    text = "\n".join(filter(None, (inspect.getdoc(value), made)))
    if not text:
        return ["docstring"]
    if inspect.isclass(value) and (issubclass(value, BaseException) or issubclass(value, Config)):
        return []  # fields of a configuration are declared with limits, unit and help
    function = value.__init__ if inspect.isclass(value) and not dataclasses.is_dataclass(value) else value
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:
        return []
    lacks = []
    for one in parameters:
        if one.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        entry = re.search(rf"^\s*\*{{0,2}}{one.name}: (.*(?:\n\s{{8,}}.*)*)", text, re.MULTILINE)
        if entry is None:
            lacks.append(one.name)
        elif "Tensor" in str(one.annotation) and "[" not in entry[1] and "see " not in entry[1]:
            lacks.append(f"{one.name} (shape)")
    if (
        inspect.isfunction(value)
        and str(inspect.signature(value).return_annotation) != "None"
        and not re.search("eturn|ield", text)
    ):
        # A short text says in its first sentence what comes back, as a noun: "The spectrum of …".
        lacks += [] if re.match(r"(The|A|An|What|Whether|How|All|Each|Of|Which|Where|See)\b", text) else ["Returns"]
    if inspect.isfunction(function) and raises(function) and "aise" not in text:
        lacks.append("Raises")
    return lacks


def raises(function: Any) -> bool:
    """Whether the function itself raises an InputError."""
    try:
        tree = ast.parse(inspect.cleandoc(inspect.getsource(function)))
    except (OSError, SyntaxError, IndentationError):
        return False
    thrown = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    return any("InputError" in ast.unparse(each) for each in thrown)


def test_every_public_name_says_what_it_takes_and_gives() -> None:
    lacks = {name: missing for name, value in public_names() if (missing := shortfall(value))}
    print(f"{len(lacks)} of {sum(1 for _ in public_names())} public names lack something")
    assert len(lacks) <= LACKING, "\n".join(f"{name}: {', '.join(each)}" for name, each in lacks.items())
