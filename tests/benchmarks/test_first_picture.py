"""How long a notebook shows nothing after Run All, in a real JupyterLab and a real browser; printed, not judged."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser.chromium import launched
from tests.browser.lab import command, opened, until

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
PICTURE = "document.querySelector('.js-plotly-plot .main-svg, .rislab-scene canvas')"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_picture(benchmark: Any, path: Path, tmp_path: Path) -> None:
    target = 5 if path.stem == "00_start" else 10
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    with launched() as browser, opened(browser, tmp_path, cells) as page:
        began = time.perf_counter()
        command(page, "notebook:run-all-cells")
        until(page, PICTURE)
        seconds = time.perf_counter() - began
    benchmark.extra_info |= {"seconds": seconds, "target": target}
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{path.stem}: first picture {seconds:.1f} s after Run All, target ≤ {target}")
