"""Writing files so that a reader finds the old content or the new, never half of it."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rislab.errors import InputError, error_text

# Limits of a YAML file, so that none fills the memory: characters, and values with all aliases written out.
YAML_BYTES, YAML_VALUES = 2**20, 100_000
# Numbers that YAML 1.1 takes for texts, and those that it reads otherwise than they look.
EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[\d_]+(:\d+)+(\.\d*)?)")


def replace(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one in the same folder.

    Args:
        path: of the file; its folder is made if there is none.
        content: of the file.

    Raises:
        InputError: if the disk is full or the folder cannot be written; the previous file is then unchanged.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            temporary = handle.name
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise  # Ctrl-C, which leaves no half of a file behind
        raise InputError(
            f"{path} could not be written: {error.strerror or error}; what was there before is unchanged"
        ) from error


def parse_yaml(text: str, *, strings: bool = False) -> Any:
    """What a YAML text holds; nothing in it is executed. Numbers such as 1e-3 are numbers, as in YAML 1.2.

    Args:
        text: of one document.
        strings: whether every scalar stays the string that it is written as.

    Raises:
        ValueError: in one line, if the text is no YAML or holds a value that cannot be built.
    """
    import yaml

    if len(text) > YAML_BYTES:
        raise ValueError(f"it has {len(text)} characters; allowed: {YAML_BYTES}")
    try:
        loader = (yaml.BaseLoader if strings else _loader())(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (values := _values(node, {})) > YAML_VALUES:
            shown = values if values < 10**9 else "more than 10⁹"
            raise yaml.YAMLError(f"it stands for {shown} values; allowed: {YAML_VALUES}")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
            raise ValueError(error_text(error)) from error
        words = ", ".join(filter(None, [error.context, error.problem]))
        raise ValueError(f"line {error.problem_mark.line + 1}: {words}") from error
    # Constructors of PyYAML raise other errors too, as for an impossible date or "!!bool perhaps".
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"a value in it cannot be built ({error_text(error)})") from error


@functools.cache
def _loader() -> type[Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader, which in YAML 1.1 takes 1e-3 for a text."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))
    return Loader


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node of YAML stands for, each alias counted as what it repeats.

    Raises:
        ValueError: if a node holds itself, or a mapping has a key twice, where the loader silently takes the last.
    """
    if id(node) not in known:
        known[id(node)] = 0  # until its parts are counted
        if node.id == "mapping":
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if (twice := next((key for key, count in Counter(keys).items() if count > 1), None)) is not None:
                raise ValueError(f"{twice} is given {keys.count(twice)} times; allowed: once")
        if isinstance(node.value, str) and node.tag.endswith((":int", ":float")):
            # Python needs minutes to convert numbers of thousands of digits.
            if len(node.value) > 1000:
                return YAML_VALUES + 1
            if OTHER_BASE.fullmatch(node.value):
                raise ValueError(f"{node.value} is a number to base 8 or 60; allowed: one to base 10")
        parts = node.value if isinstance(node.value, list) else []
        inner = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_values(each, known) for each in inner)
    elif not known[id(node)]:
        raise ValueError("a part of it holds itself")
    return known[id(node)]


def read_mapping(path: Path | str, otherwise: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; nothing in it is executed.

    Args:
        path: of the file.
        otherwise: end of the sentence about a file that holds something else; its beginning is the path.

    Raises:
        InputError: if it cannot be read, or holds no mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = parse_yaml(file.read(YAML_BYTES + 1))
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} {otherwise}")
    if strange := [name for name in content if not isinstance(name, str)]:
        raise InputError(f"{path} has a field {strange[0]!r}; allowed: names")
    return content


def check_writable(folder: Path) -> None:
    """Make a folder and write to it once, before long work whose results are to go there.

    Args:
        folder: of the results.

    Raises:
        InputError: if it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"folder {folder} cannot be used: {error.strerror}") from error


def check_file_writable(field: str, path: Path | str) -> None:
    """Check before long work that its result can be written to a file.

    Args:
        field: that names the file.
        path: of the file.

    Raises:
        InputError: if it is a folder, or its folder cannot be made or written to.
    """
    if Path(path).is_dir():
        raise InputError(f"{field} is {str(path)!r}, a folder; allowed: the path of a file")
    check_writable(Path(path).absolute().parent)
