"""A notebook that ran, without what running it added."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rislab.reports.clean_notebook import cleaned
from rislab.reports.notebooks import available

ORIGINALS = list(available().values())


def executed(text: str) -> str:
    """As JupyterLab saves a notebook after Run All."""
    notebook = json.loads(text)
    notebook["metadata"] |= {"widgets": {"state": 1}, "language_info": {"name": "python", "version": "3.12.1"}}
    for count, cell in enumerate(notebook["cells"]):
        cell["metadata"] |= {"execution": {"iopub.status.busy": "now"}, "editable": True, "scrolled": False}
        if cell["cell_type"] == "code":
            cell |= {"execution_count": count, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1"]}]}
    return json.dumps(notebook, indent=1)


@pytest.mark.parametrize("path", ORIGINALS, ids=lambda path: path.stem)
def test_a_notebook_that_ran_is_the_original_again(path: Path) -> None:
    text = path.read_text()
    assert cleaned(text) == text
    assert cleaned(executed(text)) == text


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"cells": 3}', '{"cells": [3], "metadata": {}}'])
def test_what_is_no_notebook_stays_as_it_is(text: str) -> None:
    assert cleaned(text) == text
