"""A notebook without outputs and metadata of a run, in the form in which ours are committed."""

from __future__ import annotations

import json
from typing import Any

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def cleaned(text: str) -> str:
    """The JSON of a notebook without outputs, counts, widgets and times; text that is no notebook stays as it is."""
    try:
        notebook = json.loads(text)
        notebook["cells"] = [_cell(cell) for cell in notebook["cells"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return text
    notebook["metadata"] = METADATA
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _cell(cell: dict[str, Any]) -> dict[str, Any]:
    tags = cell["metadata"].get("tags")
    cell = cell | {"metadata": {"tags": tags} if tags else {}}
    return cell | {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else cell
