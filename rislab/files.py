"""Writing files so that a reader finds the old content or the new, never half of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from rislab.errors import InputError


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
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(
            f"{path} could not be written: {error.strerror or error}; what was there before is unchanged"
        ) from error


def parse_yaml(text: str, *, strings: bool = False) -> Any:
    """What a YAML text holds; nothing in it is executed.

    Args:
        text: of one document.
        strings: whether every scalar stays the string that it is written as.

    Raises:
        ValueError: in one line, if the text is no YAML or holds a value that cannot be built.
    """
    import yaml

    try:
        return yaml.load(text, Loader=yaml.BaseLoader if strings else yaml.SafeLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    # PyYAML lets other errors of its constructors through: for a date that no calendar has, for "!!bool perhaps".
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"a value in it cannot be built ({str(error).splitlines()[0]})") from error


def read_mapping(path: Path | str, otherwise: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; nothing in it is executed.

    Args:
        path: of the file.
        otherwise: end of the sentence about a file that holds something else; its beginning is the path.

    Raises:
        InputError: if it cannot be read, or holds no mapping.
    """
    try:
        content = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} could not be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} {otherwise}")
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
