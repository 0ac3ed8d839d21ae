"""Names of the networks that CovarianceNet.build() makes, and what version 0.1 called them and their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rislab.errors import check_choice

DESIGNS = ("unrolled+residual", "unrolled", "memoriser")
FORMER_DESIGNS = {"pursuit": "unrolled+residual", "places": "unrolled", "beams": "memoriser"}
_FORMER_TENSORS = {
    "place": "embedding",
    "none": "no_source",
    "own": "embed",
    "among": "token_mixers",
    "within": "channel_mixers",
    "share": "score",
}


def design_in(path: Path | str, design: object) -> str:
    """The design that a file names, by its present name; raises InputError if there is none."""
    name = FORMER_DESIGNS.get(design, design) if isinstance(design, str) else design
    check_choice(f"design in {path}", name, DESIGNS)
    return str(name)


def renamed(tensors: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Tensors of a file of version 0.1 by their present names.

    Args:
        tensors: by name.
        names: of the network that they are for; what has one of these is not renamed.
    """
    return {name if name in names else re.sub(r"\bweigher\.(\w+)", _present, name): tensors[name] for name in tensors}


def _present(match: re.Match[str]) -> str:
    return f"power_head.{_FORMER_TENSORS.get(match[1], match[1])}"
