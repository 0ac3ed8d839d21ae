"""Names of the networks that CovarianceNet.build() makes, and what version 0.1 called them."""

from __future__ import annotations

from pathlib import Path

from rislab.errors import check_choice

DESIGNS = ("unrolled+residual", "unrolled", "memoriser")
FORMER_DESIGNS = {"pursuit": "unrolled+residual", "places": "unrolled", "beams": "memoriser"}


def design_in(path: Path | str, design: object) -> str:
    """The design that a file names, by its present name; raises InputError if there is none."""
    name = FORMER_DESIGNS.get(design, design) if isinstance(design, str) else design
    check_choice(f"design in {path}", name, DESIGNS)
    return str(name)
