"""Names of the networks that CovarianceNet.build() makes."""

from __future__ import annotations

from pathlib import Path

from rislab.errors import InputError, check_choice

DESIGNS = ("unrolled+residual", "unrolled", "memoriser")
# Names that they had in version 0.1, whose files name the tensors otherwise, too.
FORMER_DESIGNS = {"pursuit": "unrolled+residual", "places": "unrolled", "beams": "memoriser"}


def check_design_in(path: Path | str, design: object) -> None:
    """Raise InputError unless the design that a file names is one of DESIGNS; it names the new name of a former one."""
    if design in FORMER_DESIGNS:
        name = FORMER_DESIGNS[str(design)]
        raise InputError(
            f"{path} is of an older version, whose design {design!r} is {name!r} now; "
            f"allowed: files of this version (train it again, with design {name})"
        )
    check_choice(f"design in {path}", design, DESIGNS)
