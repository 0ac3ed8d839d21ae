"""What a prediction calls right is what its notebook measures with the parameters that it comes with."""

from __future__ import annotations

from typing import Any

import pytest

from rislab.faults.lessons import lessons
from rislab.reports import notebooks


@pytest.mark.process
def test_sixteen_snapshots_find_as_many_sources_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    names: dict[str, Any] = {}
    for cell in notebooks.code_cells(notebooks.read_notebook(notebooks.find_notebook("start"))):
        exec(cell.source, names)
        if "prediction_1.shows" in cell.source:
            break
    hits, sources = int(names["matching"].hit.sum()), names["sources"]
    assert names["name"] == "MUSIC, sample covariance" and sources == 3
    right = "none" if hits == 0 else "all three" if hits == sources else "some of them"
    assert lessons().predictions["sixteen snapshots"].right == right
