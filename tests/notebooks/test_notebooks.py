"""Every notebook runs to its own verdict by papermill, and its report opens offline in a real browser."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rislab.reports import notebooks, parameter_checks, runner
from rislab.reports.summary import without_controls
from tests.forks import forking
from tests.notebooks.small import SMALL

LARGEST = 5_000_000  # bytes of a report
LONGEST = 104  # letters of a printed line: what JupyterLab shows in one in a window of 1280 pixels


class Ran(dict[str, runner.Report]):
    """The report of each notebook, run when it is first asked for."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out

    def __missing__(self, name: str) -> runner.Report:
        options = {"out": self._out, "check": parameter_checks.check_for(name), "progress": False}
        # The browser of these tests has an event loop in this thread, and only one may run there.
        with ThreadPoolExecutor(1) as thread, forking():
            self[name] = thread.submit(runner.run_notebook, name, SMALL[name], **options).result()
        return self[name]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("reports"))


def test_every_notebook_has_small_parameters() -> None:
    assert set(SMALL) == set(notebooks.available())


@pytest.mark.process
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_to_its_verdict(name: str, ran: Ran) -> None:
    report = ran[name]
    assert report.ok, report.error
    assert "NMSE" in report.closing
    cells = json.loads(report.notebook.read_text())["cells"]
    assert "assert " in "".join(cells[-1]["source"])
    skipped = [cell for cell in cells if cell["cell_type"] == "code" and cell["execution_count"] is None]
    assert skipped == []
    noise = [
        text
        for cell in cells
        for output in cell.get("outputs", [])
        for text in [output.get("name")]
        if text == "stderr"
    ]
    assert noise == []
    # A longer line of a table would be broken, and its last columns stand below the first; sentences may be broken.
    printed = [
        re.sub(r"\x1b\[\d*m", "", "".join(out.get("text", ""))) for cell in cells for out in cell.get("outputs", [])
    ]
    rows = [line for text in printed for line in text.splitlines() if re.search(r"\S {2,}\S", line)]
    assert [row for row in rows if len(row) > LONGEST] == []


@pytest.mark.process
@pytest.mark.parametrize("name", SMALL)
def test_a_report_is_small_enough_to_be_sent(name: str, ran: Ran) -> None:
    # Of small values: those of `rislab report --all` are measured when it is timed, see tests/figures.
    assert ran[name].html.stat().st_size < LARGEST


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all reports; each opens in a context of its own."""
    from tests.browser.chromium import launched

    with launched() as chromium:
        yield chromium


@pytest.mark.process
@pytest.mark.parametrize("name", SMALL)
def test_a_report_opens_offline_with_all_its_plots(name: str, ran: Ran, browser: Any) -> None:
    cells: list[dict[str, Any]] = json.loads(ran[name].notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    figures = sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
    assert figures >= 4
    from tests.browser.figures import change_theme, figure_defects

    asked: list[str] = []
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_offline(True)
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(ran[name].html.as_uri())
    page.wait_for_function(f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {figures}")
    drawn = page.locator(".js-plotly-plot").count()
    width = page.evaluate("document.documentElement.scrollWidth")
    soak = bool(os.environ.get("RISLAB_SOAK"))
    if soak:
        # To look at: it shows no test anything, and takes a second.
        Path("reports/out").mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"reports/out/test-{name}.png", full_page=True)
    defects = {}
    for across in (1280, 1920) if soak else (1280,):
        page.set_viewport_size({"width": across, "height": 800})
        for theme in ("light", "dark"):
            change_theme(page, theme)
            defects |= {(across, theme, figure): wrong for figure, wrong in figure_defects(page).items()}
    context.close()
    assert defects == {}
    assert drawn == figures
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert complaints == []
    assert width <= 1280


@pytest.mark.parametrize("name", SMALL)
def test_a_report_speaks_of_no_button(name: str) -> None:
    """Reports said "**Click** a cell" and "**Stop** ends it", of controls that a page does not have."""
    shown = without_controls(notebooks.read_notebook(notebooks.find_notebook(name)))
    text = "\n".join(cell.source for cell in shown.cells if cell.cell_type == "markdown")
    buttons = r"\*\*(?:Start|Stop|Pause|Step|Reset|Load|Go on|Click)\*\*|\b[Dd]rag\b"
    assert re.findall(buttons, text) == [] and "live" not in re.findall(r'class="(\w+)"', text)


def test_ranges_are_refused_before_anything_runs(tmp_path: Path) -> None:
    from rislab.errors import InputError

    for values, said in (
        ({"accumulation_steps": 0}, "accumulation_steps is 0"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"scenes": 10}, "scenes is 10"),
    ):
        with pytest.raises(InputError, match=said):
            runner.run_notebook(
                "overfit", values, out=tmp_path, check=parameter_checks.check_for("overfit"), progress=False
            )
    assert list(tmp_path.iterdir()) == []


def test_values_come_from_a_file(tmp_path: Path) -> None:
    from rislab.errors import InputError

    path = notebooks.find_notebook("overfit")
    file = tmp_path / "set.yaml"
    file.write_text("accumulation_steps: 4\nlr: 1e-3\n")
    assert notebooks.read_values(path, file) == {"accumulation_steps": 4, "lr": 0.001}
    for text, said in (
        ("[1, 2]", "holds no mapping"),
        ("a: [", "is not YAML"),
        ("acumulation_steps: 4", "did you mean"),
        ("4: 4", "has a field 4; allowed: names"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            notebooks.read_values(path, file)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("start", "epochs", 0),
        ("overfit", "compare_steps", [3]),
        ("precision", "windows", 0),
        ("whodunnit", "batches", 3),
        ("fault_clinic", "epochs", 51),
        ("music", "draws", 0),
        ("music", "wavefront", "planar"),
        ("localise", "test_scenes", "many"),
        ("your_loop", "epochs", 51),
        ("tuning", "confirm", 1),
        ("tuning", "skip_ladder", "no"),
        ("your_data", "positions", None),
    ],
)
def test_a_notebook_refuses_a_parameter_in_the_first_cell_that_takes_it(
    name: str, parameter: str, value: object
) -> None:
    """Reports and commands did; in JupyterLab a value out of range went as far as it could."""
    from rislab.errors import InputError

    first, second = [
        cell.source for cell in notebooks.read_notebook(notebooks.find_notebook(name)).cells if cell.cell_type == "code"
    ][:2]
    variables: dict[str, object] = {}
    exec(first, variables)
    variables[parameter] = value
    with pytest.raises(InputError, match=f"^{parameter} (is|holds) "):
        exec(second, variables)
