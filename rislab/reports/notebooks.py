"""Notebooks as files: their names, parameters and cells; nothing is run here."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rislab import files
from rislab.errors import InputError, did_you_mean

NOTEBOOK_BYTES = 8 * 2**20  # executed notebooks of the lab have less than a megabyte
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_ANNOTATION = re.compile(r"(list\[)?(int|float|str|bool)(?(1)\])")
_EXAMPLES = {"int": "4", "float": "0.5 or 1e-3", "bool": "true or false", "str": "text"}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's `parameters` cell."""

    name: str
    annotation: str
    default: object
    comment: str


def available(folder: Path | None = None) -> dict[str, Path]:
    """Find the notebooks that can be reported, by name: `01_overfit.ipynb` is `overfit`.

    Args:
        folder: where to look; by default `notebooks/` here, else beside the package.

    Returns:
        Report name to path, in the order of the file names.

    Raises:
        InputError: no notebook is there, or two have one name.
    """
    beside = Path(__file__).resolve().parents[2] / "notebooks"
    places = [Path(folder)] if folder is not None else [Path("notebooks").resolve(), beside]
    for place in places:
        paths: dict[str, Path] = {}
        for path in sorted(place.glob("*.ipynb")):
            name = re.sub(r"^\d+[_-]", "", path.stem)
            if name in paths:
                raise InputError(f"report {name!r} is ambiguous: {paths[name].name} and {path.name}")
            paths[name] = path.resolve()
        if paths:
            return paths
    searched = " or ".join(str(place) for place in places)
    allowed = "a folder that holds some" if folder is not None else "the folder of a checkout: cd rislab, and again"
    raise InputError(f"no notebooks (*.ipynb) in {searched}; allowed: {allowed}")


def find_notebook(name: str, folder: Path | None = None) -> Path:
    """The notebook of a report.

    Args:
        name: as available() lists it.
        folder: see available().

    Raises:
        InputError: there is no such report.
    """
    paths = available(folder)
    if name not in paths:
        raise InputError(f"unknown report {name!r}{did_you_mean(name, paths)}")
    return paths[name]


def parameters(path: Path) -> dict[str, Parameter]:
    """Read a notebook's `parameters` cell without running it.

    Returns:
        The parameters by name, in the order of the cell; none if no cell has the tag.

    Raises:
        InputError: the cell holds anything but lines such as `steps: int = 4  # comment`.
    """
    try:
        return parameters_of(read_notebook(path))
    except InputError as error:
        raise InputError(f"{Path(path).name}: {error}") from None


def parse_values(path: Path, texts: Mapping[str, str]) -> dict[str, object]:
    """Turn command-line texts into values of the types that the notebook's parameters want.

    Args:
        path: the notebook.
        texts: parameter name to text; a `str` parameter takes its text as it stands.

    Returns:
        The values, for the given names only.

    Raises:
        InputError: an unknown name or a text that is not of the wanted type.
    """
    return _convert(parameters(path), texts, _from_text)


def read_values(path: Path, file: Path) -> dict[str, object]:
    """Read parameter values from a YAML file and check them against the notebook's parameters.

    Args:
        path: the notebook.
        file: a mapping of parameter name to value; nothing in it is executed.

    Raises:
        InputError: a file that cannot be read or is no mapping, an unknown name, or a value of the wrong type.
    """
    lines = "holds no mapping; allowed: lines such as accumulation_steps: 4"
    return check_values(path, files.read_mapping(file, lines))


def check_values(path: Path, values: Mapping[str, object]) -> dict[str, object]:
    """Check typed values, as they come from YAML or Python, against the notebook's parameters.

    Args:
        path: the notebook.
        values: parameter name to value.

    Returns:
        The values, integers made floats where a float is wanted.

    Raises:
        InputError: an unknown name or a value that is not of the wanted type.
    """
    return _convert(parameters(path), values, _from_value)


def read_notebook(path: Path) -> Any:
    """The notebook as an nbformat node, with cell ids; raises InputError if it is none."""
    import nbformat

    try:
        if (size := path.stat().st_size) > NOTEBOOK_BYTES:
            raise ValueError(f"it has {size >> 20} MB; allowed: {NOTEBOOK_BYTES >> 20}")
        # Older minor versions have no cell ids.
        return nbformat.v4.upgrade(nbformat.read(path, as_version=4))
    except FileNotFoundError:
        raise InputError("no such notebook") from None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError, nbformat.ValidationError) as error:
        raise InputError(f"not a notebook ({first_line(str(error)) or type(error).__name__})") from None


def notebook_json(notebook: Any) -> str:
    """The text of the file that holds an nbformat node."""
    import nbformat

    return str(nbformat.writes(notebook))


def tagged(notebook: Any, tag: str) -> list[Any]:
    """The cells that carry a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


# Not papermill.inspect_notebook(), which reads lines by a regular expression: it drops a parameter with "=" in its
# comment, refuses nothing, and needs a kernel's name.
def parameters_of(notebook: Any) -> dict[str, Parameter]:
    """parameters() of a notebook that is open already."""
    cells = tagged(notebook, "parameters")
    if len(cells) > 1:
        raise InputError(f"{len(cells)} cells are tagged 'parameters'; allowed: one")
    known: dict[str, Parameter] = {}
    for cell in cells:
        try:
            body = ast.parse(cell.source).body
        except SyntaxError as error:
            raise InputError(f"the parameters cell is not Python: {error}") from None
        for node in body:
            parameter = _parameter(node, cell.source.splitlines())
            known[parameter.name] = parameter
    return known


def _parameter(node: ast.stmt, lines: list[str]) -> Parameter:
    line = lines[node.lineno - 1].strip()
    wanted = f"the parameters cell holds {line!r}; allowed: name: int | float | str | bool | list[...] = literal"
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
        raise InputError(wanted)
    annotation = ast.unparse(node.annotation)
    try:
        default = ast.literal_eval(node.value)
    except ValueError:
        raise InputError(wanted) from None
    if not _ANNOTATION.fullmatch(annotation):
        raise InputError(wanted)
    # ast counts columns in UTF-8 bytes, not in characters.
    rest = lines[(node.end_lineno or node.lineno) - 1].encode()[node.end_col_offset :].decode()
    try:
        default = _from_value(default, annotation)
    except ValueError:
        raise InputError(wanted) from None
    return Parameter(node.target.id, annotation, default, rest.strip().removeprefix("#").strip())


def _convert(
    allowed: Mapping[str, Parameter], given: Mapping[str, Any], reader: Callable[[Any, str], object]
) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in given.items():
        if name not in allowed:
            raise InputError(f"unknown parameter {name!r}{did_you_mean(name, allowed)}")
        annotation = allowed[name].annotation
        try:
            values[name] = reader(value, annotation)
        except ValueError:
            raise InputError(f"parameter {name} is {value!r}; allowed: {_wanted(annotation)}") from None
    return values


def _wanted(annotation: str) -> str:
    item = annotation.removeprefix("list[").removesuffix("]")
    example = _EXAMPLES[item]
    return f"{annotation}, such as {example if item == annotation else '[' + example.split(' or ')[0] + ']'}"


def _from_text(text: str, annotation: str) -> object:
    if annotation.startswith("list["):
        # Strings, so that elements are read by the same rules as single values.
        items = files.parse_yaml(text, strings=True)
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise ValueError(text)
        return [_from_text(item, annotation[5:-1]) for item in items]
    if annotation == "str":
        return text
    if annotation == "bool":
        if text.strip().lower() not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text.strip().lower()]
    return int(text) if annotation == "int" else _finite(float(text))


def _from_value(value: object, annotation: str) -> object:
    if annotation.startswith("list["):
        if not isinstance(value, (list, tuple)):
            raise ValueError(value)
        return [_from_value(item, annotation[5:-1]) for item in value]
    if annotation == "float" and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        # A string is let through to float() because YAML reads 1e-3, without a dot, as text.
        return _finite(float(value))
    if type(value).__name__ != annotation:
        raise ValueError(value)
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(value)
    return value


def failed_cell(notebook: Any) -> Any | None:
    """The cell at which an executed notebook stopped, if it did."""
    # papermill sets this for sys.exit(0) too, though it takes that for success, and not for the tag raises-exception.
    failed = (cell for cell in notebook.cells if cell.metadata.get("papermill", {}).get("exception"))
    return next(failed, None)


def code_cells(notebook: Any) -> list[Any]:
    """The cells of code that are not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def unrun(notebook: Any) -> int:
    """Number of code cells that papermill never ran."""
    return sum(not cell.metadata.papermill.start_time for cell in code_cells(notebook))


def numbered(notebook: Any) -> dict[str, int]:
    """Number the code cells as Jupyter does on Run All of the original: neither empty nor injected cells count."""
    code = code_cells(notebook)
    injected = [cell.id for cell in tagged(notebook, "injected-parameters")]
    return {cell.id: number for number, cell in enumerate((c for c in code if c.id not in injected), start=1)}


def first_line(text: str) -> str:
    """The first line of a text that is not blank."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def statements_of(source: str) -> list[ast.stmt]:
    """The statements of a cell; none of one that Python cannot read."""
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
