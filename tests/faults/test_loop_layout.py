"""Places of the statements of the loop: what the parser says, whatever the eye believes."""

from __future__ import annotations

import ast
import re

from rislab.faults import catalogue
from rislab.faults.fault import source_of
from rislab.faults.loop_layout import StatementPlace, statement_places
from rislab.faults.story import LOOP_VARIANTS


def test_the_table_of_indents_is_that_of_the_source() -> None:
    def table(variant: str) -> dict[str, StatementPlace]:
        fault = LOOP_VARIANTS[variant].fault
        source = catalogue.find_fault(fault).edited() if fault else source_of("training.loop")
        places = {place.name: place for place in statement_places(source)}
        for place in places.values():
            line = source.splitlines()[place.line - 1]
            assert len(line) - len(line.lstrip()) == place.column and place.name.split(".")[-1] in line
        return places

    correct, one, two = (table(name) for name in ("correct loop", "stage one", "stage two"))
    assert correct["backward"].inside and correct["backward"].column == correct["for"].column + 4
    assert two["backward"].column == two["for"].column and not two["backward"].inside
    assert one["backward"].column == correct["backward"].column and not one["backward"].inside
    assert (one["backward"].branch, correct["backward"].branch) == ("first", "")
    assert one["compute_loss"].inside and two["compute_loss"].inside


def test_a_comment_may_stand_anywhere() -> None:
    source = source_of("training.loop")
    moved = re.sub(r"^\s+#", "#", source, flags=re.MULTILINE)
    assert moved != source and ast.dump(ast.parse(moved)) == ast.dump(ast.parse(source))
    assert ast.dump(ast.parse(catalogue.find_fault("backward after the batch loop").edited())) != ast.dump(
        ast.parse(source)
    )
