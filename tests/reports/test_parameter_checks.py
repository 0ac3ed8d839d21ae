"""Parameters of notebooks: each line of a parameters cell says what the declaration of its field says."""

from __future__ import annotations

from dataclasses import fields

import pytest

from rislab.config import Declaration, declarations
from rislab.reports import notebooks
from rislab.reports.parameter_checks import PARAMETERS

TYPES = {"integer": "int", "number": "float", "switch": "bool", "text": "str", "device": "str"}


def annotation(declaration: Declaration) -> str:
    kind = declaration.kind
    item = type(declaration.choices[0]).__name__ if kind == "choice" else TYPES[kind]
    return f"list[{item}]" if declaration.many else item


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameters_cell_says_what_its_configuration_declares(name: str) -> None:
    config = PARAMETERS[name]
    parameters = notebooks.parameters(notebooks.find_notebook(name))
    assert set(parameters) == {one.name for one in fields(config)}
    for field, declaration in declarations(config).items():
        parameter = parameters[field]
        assert parameter.annotation == annotation(declaration)
        # The limits may be left out where they make the line too long.
        limits = f" ({declaration.allowed})" if declaration.allowed else ""
        assert parameter.comment in (declaration.help, f"{declaration.help}{limits}"), field
        # papermill reads the lines by a regular expression, and complains of this one on stderr.
        assert "=" not in parameter.comment
    config(**{field: parameter.default for field, parameter in parameters.items()})


def test_every_notebook_has_a_configuration() -> None:
    assert set(PARAMETERS) == set(notebooks.available())
