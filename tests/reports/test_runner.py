"""Reports: parameters are checked before anything runs, failures leave a partial report, pages need no network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rislab.errors import InputError
from rislab.reports import html_export, notebooks, parameter_checks, runner
from rislab.reports.measured import MIME
from rislab.reports.summary import summarise

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63fcffff3f030005fe02fea7"
    "9a0ca20000000049454e44ae426082"
)
PARAMETERS = """\
steps: int = 4  # micro-batches per optimiser step (1..64)
rate: float = 1e-3  # learning rate, λ = 0.3 m
label: str = "λλλλλλ"  # any text
bias: bool = True
levels: list[float] = [0, 10]  # dB
names: list[str] = ["a", "b"]
seed: int = 7  # of everything
"""
HOSTILE = {
    "quote": "\"; import os; os.system('touch x') #",
    "triple": "'''\n\"\"\"\nimport os; os.system('touch x')\n",
    "escape": "\\",
    "escaped quote": '\\"; open("x", "w") #',
    "format": "{0} %s ${HOME} `touch x`",
    "lines": "a=b\nc\r\nd\te\x00\u2028λ",
    "page": "</script><script>alert(1)</script>",
}


def code(source: str, *tags: str) -> Any:
    return new_code_cell(source, metadata={"tags": list(tags)})


def write(folder: Path, name: str, *cells: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def displayed(data: dict[str, Any]) -> Any:
    return new_code_cell("show()", outputs=[new_output("display_data", data)])


def plot(title: str = "Loss") -> Any:
    return displayed({html_export.PLOTLY: {"data": [{"y": [1, 2]}], "layout": {"title": {"text": title}}}})


def page(tmp_path: Path, *cells: Any, **options: Any) -> str:
    target = tmp_path / "page.html"
    html_export.export_html(new_notebook(cells=list(cells)), target, title="A page", header={"seed": "7"}, **options)
    return target.read_text(encoding="utf-8")


# The thread that sends what is printed and displayed has no processor for so long after the reply to a cell.
LATE = """
import time
kernel = get_ipython().kernel
send, left = kernel.session.send, [5.0]
def send_late(stream, message, *more, **named):
    sent = send(stream, message, *more, **named)
    if message == "execute_reply" and left:
        kernel.iopub_thread.schedule(lambda seconds=left.pop(): time.sleep(seconds))
    return sent
kernel.session.send = send_late
"""


class Attributes(HTMLParser):
    """Collects the addresses that a page would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe"}:
            self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]


# ------------------------------------------------------------------------------------------- notebooks and parameters


def test_names_drop_the_number(tmp_path: Path) -> None:
    for name in ("01_overfit", "00_start", "02-two_words", "plain"):
        write(tmp_path, name)
    assert list(notebooks.available(tmp_path)) == ["start", "overfit", "two_words", "plain"]
    assert notebooks.available(tmp_path)["overfit"] == tmp_path / "01_overfit.ipynb"


def test_notebooks_here_come_before_those_beside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "notebooks", "01_mine")
    write(tmp_path / "checkout" / "notebooks", "01_shipped")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "checkout" / "rislab" / "reports" / "notebooks.py"))
    assert list(notebooks.available()) == ["mine"]


def test_notebooks_beside_the_package_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "checkout" / "notebooks", "01_shipped")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "checkout" / "rislab" / "reports" / "notebooks.py"))
    assert list(notebooks.available()) == ["shipped"]


@pytest.mark.parametrize("names", [[], ["01_twice", "02_twice"]], ids=["empty", "twice"])
def test_a_folder_without_clear_names_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write(tmp_path, name)
    with pytest.raises(InputError, match=re.escape(str(tmp_path)) if not names else "01_twice.ipynb and 02_twice"):
        notebooks.available(tmp_path)


def test_parameters_are_read_with_types_and_comments(tmp_path: Path) -> None:
    found = notebooks.parameters(write(tmp_path, "a", code("1"), code(PARAMETERS, "parameters")))
    assert list(found) == ["steps", "rate", "label", "bias", "levels", "names", "seed"]
    assert found["steps"] == notebooks.Parameter("steps", "int", 4, "micro-batches per optimiser step (1..64)")
    assert found["rate"].comment == "learning rate, λ = 0.3 m"
    assert found["label"] == notebooks.Parameter("label", "str", "λλλλλλ", "any text")
    assert found["bias"] == notebooks.Parameter("bias", "bool", True, "")
    assert found["levels"].default == [0.0, 10.0]
    assert isinstance(found["levels"].default, list) and isinstance(found["levels"].default[0], float)


def test_a_notebook_needs_no_parameters(tmp_path: Path) -> None:
    assert notebooks.parameters(write(tmp_path, "a", code(PARAMETERS))) == {}


@pytest.mark.parametrize(
    "line",
    [
        "x: int = open('x', 'w')",
        "x = 1",
        "import os",
        "x: int",
        "x: Path = 1",
        "x: int = 'a'",
        "x: int | None = 1",
        "x: list[list[int]] = []",
        "print(1",
    ],
)
def test_other_lines_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a.ipynb: the parameters cell"):
        notebooks.parameters(write(tmp_path, "a", code(line, "parameters")))
    assert not (tmp_path / "x").exists()


def test_two_parameters_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 cells are tagged"):
        notebooks.parameters(write(tmp_path, "a", code("x: int = 1", "parameters"), code("y: int = 1", "parameters")))


def test_a_file_that_is_no_notebook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("not json")
    with pytest.raises(InputError, match="a.ipynb: not a notebook"):
        notebooks.parameters(tmp_path / "a.ipynb")
    with pytest.raises(InputError, match="b.ipynb: no such notebook"):
        notebooks.parameters(tmp_path / "b.ipynb")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "8", 8),
        ("rate", "1e-3", 0.001),
        ("rate", "3", 3.0),
        ("bias", "No", False),
        ("bias", "1", True),
        ("label", "1e-3", "1e-3"),
        ("label", ' "quoted" = \n', ' "quoted" = \n'),
        ("label", "", ""),
        ("levels", "[1e-3, 2]", [0.001, 2.0]),
        ("levels", "[]", []),
        ("names", "[yes, 'a, b', 3]", ["yes", "a, b", "3"]),
    ],
)
def test_texts_become_typed_values(tmp_path: Path, name: str, text: str, value: object) -> None:
    path = write(tmp_path, "a", code(PARAMETERS, "parameters"))
    read = notebooks.parse_values(path, {name: text})
    assert read == {name: value}
    assert type(read[name]) is type(value)
    assert isinstance(read[name], list) or notebooks.check_values(path, read) == read


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("steps", "3.5", "int, such as 4"),
        ("steps", "", "int"),
        ("rate", "nan", "float, such as 0.5 or 1e-3"),
        ("rate", "-inf", "float"),
        ("rate", "fast", "float"),
        ("bias", "maybe", "bool, such as true or false"),
        ("levels", "3", r"list\[float\], such as \[0.5\]"),
        ("levels", "[1, [2]]", r"list\[float\]"),
        ("levels", "[1, two]", r"list\[float\]"),
        ("levels", "!!python/object/apply:os.system ['touch x']", r"list\[float\]"),
        ("levels", "[1", r"list\[float\]"),
    ],
)
def test_ill_typed_texts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "a", code(PARAMETERS, "parameters"))
    with pytest.raises(InputError, match=f"parameter {name} is {re.escape(repr(text))}; allowed: {wanted}"):
        notebooks.parse_values(path, {name: text})
    assert not (tmp_path / "x").exists()


def test_an_unknown_name_is_refused_with_the_closest(tmp_path: Path) -> None:
    path = write(tmp_path, "a", code(PARAMETERS, "parameters"))
    with pytest.raises(InputError, match="'step', did you mean 'steps'. allowed: steps, rate, label, bias"):
        notebooks.parse_values(path, {"step": "8"})
    with pytest.raises(InputError, match="'zzz'; allowed: steps"):
        notebooks.check_values(path, {"zzz": 8})


def test_typed_values_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path, "a", code(PARAMETERS, "parameters"))
    good = notebooks.check_values(path, {"rate": 3, "levels": (1, "1e-3"), "steps": 2, "names": ["1"]})
    assert good == {"rate": 3.0, "levels": [1.0, 0.001], "steps": 2, "names": ["1"]}
    assert isinstance(good["rate"], float)
    bad: list[tuple[str, object]] = [
        ("steps", True),
        ("steps", 3.0),
        ("steps", "3"),
        ("rate", True),
        ("rate", "fast"),
        ("rate", float("inf")),
        ("bias", 1),
        ("label", 3),
        ("label", None),
        ("levels", 3),
        ("names", [3]),
    ]
    for name, value in bad:
        with pytest.raises(InputError, match=f"parameter {name} is "):
            notebooks.check_values(path, {name: value})


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("la{b}")
    show = "from IPython.display import display\ndisplay({'application/vnd.plotly.v1+json': %s}, raw=True)"
    figure = {"data": [{"y": [1, 2]}], "layout": {}}
    texts = "\n".join(f"text_{number}: str = ''" for number in range(len(HOSTILE)))
    write(
        folder,
        "01_good",
        new_markdown_cell("# Good\n\nText."),
        code(PARAMETERS + texts, "parameters"),
        code("import os, sys, json\nprint('first <script>alert(2)</script>')"),
        code(show % figure),
        code(show % figure),
        code(
            f"texts = [globals()[f'text_{{n}}'] for n in range({len(HOSTILE)})]\n"
            "print(json.dumps([steps, rate, label, os.environ['RISLAB_LIVE'], sys.executable, os.getcwd(), texts]))"
        ),
        new_markdown_cell("The end."),
        code(""),
    )
    write(
        folder,
        "02_failing",
        code("seed: int = 1", "parameters"),
        code("print('before')"),
        code("# the culprit\n[][3] + len('<b>')"),
        code("print('after')"),
    )
    write(folder, "03_exits", code("print('measured')\nimport sys\nsys.exit(0)"), code(""))
    write(folder, "04_tolerates", code("1 / 0", "raises-exception"), code("print('after')"))
    write(folder, "06_asserts", code("score = 0.5\nassert score < 0.1"))
    write(folder, "05_dies", code("print('before')"), code("import os\nos._exit(3)"), code("print('after')"))
    # On a machine under load a line comes in two pieces: what a kernel sends every 0.2 s may end before its newline.
    print_slowly = "import sys\nfor part in ('one', ' line', '\\n'):\n    print(part, end='')\n    sys.stdout.flush()"
    write(folder, "07_slow", code(f"{print_slowly}\n{show % figure}\nprint('below')"), code(print_slowly))
    write(folder, "08_late", code(LATE), code("print('in time')"), code("print('after')"))
    return folder


def run(lab: Path, name: str, out: Path, values: dict[str, object] | None = None, **options: Any) -> runner.Report:
    return runner.run_notebook(name, values, out=out, folder=lab, progress=False, **options)


@pytest.fixture(scope="module")
def good(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> runner.Report:
    # An impostor: a user's own kernel of the same name, found first, and an environment that says the opposite.
    home = tmp_path_factory.mktemp("home")
    kernel = home / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "", "language": "python"}))
    values = {f"text_{number}": text for number, text in enumerate(HOSTILE.values())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(home))
        patch.setenv("RISLAB_LIVE", "1")
        report = run(lab, "good", tmp_path_factory.mktemp("out") / "deep", {"steps": 8, **values})
        assert os.environ["RISLAB_LIVE"] == "1"
    return report


@pytest.fixture(scope="module")
def failing(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> runner.Report:
    return run(lab, "failing", tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def tolerant(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> runner.Report:
    return run(lab, "tolerates", tmp_path_factory.mktemp("out"), saved_as="other", question="Is 1 < 2?")


@pytest.mark.process
def test_a_run_writes_both_files_and_nothing_else(good: runner.Report, lab: Path) -> None:
    assert good.ok and good.error == "" and good.name == "good" and good.seconds > 0
    assert sorted(path.name for path in good.html.parent.iterdir()) == ["good.html", "good.ipynb"]
    executed = nbformat.read(good.notebook, as_version=4)
    assert executed.metadata.papermill.input_path == "01_good.ipynb"
    assert "widgets" not in executed.metadata
    assert not (lab / "x").exists()


@pytest.mark.process
def test_parameters_are_merged_and_reach_the_kernel(good: runner.Report, lab: Path) -> None:
    steps, rate, label, live, executable, folder, texts = json.loads(good.closing)
    assert (steps, rate, label) == (8, 0.001, "λλλλλλ")
    assert (live, executable, folder) == ("0", sys.executable, str(lab))
    assert texts == list(HOSTILE.values())
    assert good.parameters["steps"] == 8 and good.parameters["seed"] == 7
    assert good.parameters["text_0"] == HOSTILE["quote"]


@pytest.mark.process
def test_a_page_holds_plotly_once_and_loads_nothing(good: runner.Report) -> None:
    html = good.html.read_text(encoding="utf-8")
    assert html.count('id="plotly"') == 1
    assert html.count("<figure") == 2
    assert Attributes(html).addresses == []
    assert "content=\"default-src 'none'" in html


@pytest.mark.process
def test_a_page_escapes_what_users_wrote(good: runner.Report) -> None:
    html = good.html.read_text(encoding="utf-8")
    assert "first &lt;script&gt;alert(2)&lt;/script&gt;" in html
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html


@pytest.mark.process
def test_a_page_shows_parameters_and_provenance(good: runner.Report) -> None:
    html = good.html.read_text(encoding="utf-8")
    table = re.search(r'<table class="parameters" id="parameters">.*?</table>', html, re.DOTALL)
    assert table is not None
    assert '<code>8</code> <span class="was">default 4</span></td><td>micro-batches per optimiser' in table[0]
    assert "<code>seed</code></th><td><code>7</code></td>" in table[0]
    assert "# Parameters" not in html  # of the cell that holds them
    labels = re.findall(r"<dt>(.*?)</dt>", html)
    assert labels == ["seed", "date", "commit", "versions", "machine", "duration"]


@pytest.mark.process
def test_code_is_folded_under_numbers_of_the_original(good: runner.Report) -> None:
    html = good.html.read_text(encoding="utf-8")
    assert re.findall(r"<summary>code <span>(.*?)</span></summary>", html) == ["2", "3", "4", "5"]
    assert html.count("<details>") == html.count("<summary>") == 4


@pytest.mark.process
def test_a_failing_cell_leaves_a_partial_report(failing: runner.Report) -> None:
    assert not failing.ok and (failing.verdict, failing.unrun) == ("partial", 1)
    assert failing.error == "cell 3 (# the culprit): IndexError: list index out of range"
    assert failing.closing == ""
    html = failing.html.read_text(encoding="utf-8")
    assert "before" in html
    assert "<summary>code <span>4, not run</span></summary>" in html
    executed = nbformat.read(failing.notebook, as_version=4)
    assert [cell.cell_type for cell in executed.cells] == ["code"] * 4
    assert executed.cells[2].outputs[0].ename == "IndexError"


@pytest.mark.process
def test_a_failing_cell_is_shown_with_its_traceback(failing: runner.Report) -> None:
    html = failing.html.read_text(encoding="utf-8")
    said = "cell 3 (# the culprit): IndexError: list index out of range; 1 of 4 code cells were not run."
    assert f"<strong>✗ partial</strong></a> {said}" in html and 'class="summary partial"' in html
    anchor = re.search(r'<a href="#(cell-id=.*?)">', html)
    assert anchor is not None and f'id="{anchor[1]}"' in html
    assert "ansi-red-fg" in html and "\x1b" not in html
    assert "len('&lt;b&gt;')" in re.sub(r"</?span.*?>", "", html).replace("&#39;", "'")


@pytest.mark.process
def test_an_exit_is_a_failure_and_where_all_cells_ran_not_a_partial_report(lab: Path, tmp_path: Path) -> None:
    report = run(lab, "exits", tmp_path)
    assert report.error == "cell 1 (print('measured')): SystemExit: 0" and not report.ok
    assert (report.verdict, report.unrun, report.closing) == ("failed", 0, "measured\n")


@pytest.mark.process
def test_an_assertion_without_words_is_named_by_its_line(lab: Path, tmp_path: Path) -> None:
    assert run(lab, "asserts", tmp_path).error == "cell 1 (score = 0.5): AssertionError: assert score < 0.1"


@pytest.mark.process
def test_an_expected_exception_is_none(tolerant: runner.Report) -> None:
    assert (tolerant.ok, tolerant.error, tolerant.closing) == (True, "", "after\n")
    assert tolerant.verdict == "passed"


@pytest.mark.process
def test_a_dead_kernel_is_named(lab: Path, tmp_path: Path) -> None:
    report = run(lab, "dies", tmp_path)
    assert report.error == "cell 2 (import os): the kernel died; it may have run out of memory"
    html = report.html.read_text(encoding="utf-8")
    assert "before" in html and "3, not run" in html and "#cell-id=" in html


@pytest.mark.process
def test_a_line_stays_whole_on_a_machine_under_load(lab: Path, tmp_path: Path) -> None:
    report = run(lab, "slow", tmp_path)
    first, last = notebooks.read_notebook(report.notebook).cells
    # Texts above and below a figure stay there.
    assert [output.get("text", "figure") for output in first.outputs] == ["one line\n", "figure", "below\n"]
    assert [output.text for output in last.outputs] == ["one line\n"] == [report.closing]


@pytest.mark.process
def test_outputs_that_come_late_are_waited_for(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(lab, "late", tmp_path)
    assert report.ok and report.closing == "after\n", report.error
    monkeypatch.setattr(runner, "OUTPUT_SECONDS", 1)
    report = run(lab, "late", tmp_path)
    assert report.error == "cell 1 (import time): its outputs did not come within 1 s; is the machine overloaded?"
    assert report.verdict == "partial" and report.html.exists()


def test_a_missing_kernel_is_named(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel.kernelspec", None)
    report = run(lab, "dies", tmp_path)
    assert report.error == f"no Jupyter kernel in {sys.executable}; install ipykernel there"
    assert report.html.exists() and report.notebook.exists()


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("start", {"preset": "tiny"}, "preset is 'tiny'; allowed"),
        ("start", {"scenes": 63}, r"scenes is 63; allowed: a whole number in \[64"),
        ("start", {"epochs": 0}, "epochs is 0; allowed"),
        ("overfit", {"lr": 0.0}, "lr is 0.0; allowed"),
        ("overfit", {"curriculum": "steep"}, "curriculum is 'steep'; allowed"),
        ("overfit", {"compare_steps": [1, 3]}, "compare_steps holds 3; allowed: divisors of 64"),
        ("overfit", {"compare_steps": [128]}, r"compare_steps is 128; allowed: a whole number in \[1, 64\]"),
        ("overfit", {"compare_steps": []}, r"compare_steps is \(\); allowed: a list, at least one"),
        ("overfit", {"compare_precisions": ["fp32", "fp8"]}, "compare_precisions is 'fp8'; allowed"),
        ("music", {"preset": "tiny"}, "preset is 'tiny'; allowed"),
        ("music", {"sources": 0}, "sources is 0; allowed"),
        ("music", {"sources": 16}, r"sources is 16; allowed: a whole number in \[1, 15\]"),
        ("music", {"sources": 8, "preset": "classroom"}, r"sources is 8; allowed: a whole number in \[1, 7\]"),
        ("music", {"snr_db": 300.0}, "snr_db is 300.0; allowed"),
        ("music", {"snrs_db": [0.0, -300.0]}, "snrs_db is -300.0; allowed"),
        ("music", {"snapshots": 15}, r"snapshots is 15; allowed: a whole number in \[16"),
        ("music", {"separation_deg": 181.0}, r"separation_deg is 181.0; allowed: a number in \[0, 180\]"),
        ("music", {"separation_deg": 90.0}, "found no room for its source"),
        ("music", {"separations_deg": [5.0, 0.0]}, r"separations_deg is 0.0; allowed: a number in \(0, 60\]"),
        ("music", {"separations_deg": [61.0]}, "separations_deg is 61.0; allowed"),
        ("music", {"separations_deg": []}, r"separations_deg is \(\); allowed: a list, at least one"),
        ("music", {"wavefront": "planar"}, "wavefront is 'planar'; allowed: 'spherical', 'fresnel'"),
        ("music", {"scenes": 0}, "scenes is 0; allowed"),
        ("music", {"draws": 0}, "draws is 0; allowed"),
        ("music", {"seed": -1}, "seed is -1; allowed"),
    ],
)
def test_values_out_of_range_are_refused_without_running(name: str, values: dict[str, object], said: str) -> None:
    path = notebooks.find_notebook(name)
    with pytest.raises(InputError, match=said):
        runner.checked_values(path, values, parameter_checks.check_for(name))


def test_values_at_the_edge_of_their_range_are_taken() -> None:
    for name, values in (
        ("start", {"scenes": 64, "epochs": 1}),
        ("overfit", {"compare_steps": [64], "compare_precisions": ["fp16"], "scenes": 64}),
        ("music", {"sources": 15, "separation_deg": 0.0, "snapshots": 16, "snrs_db": [], "separations_deg": [60.0]}),
    ):
        given, merged = runner.checked_values(notebooks.find_notebook(name), values, parameter_checks.check_for(name))
        assert given == values and merged.items() >= values.items()


def test_a_check_leaves_no_parameter_unchecked() -> None:
    check = parameter_checks.check_for("start")
    values = {"preset": "classroom", "scenes": 64, "epochs": 1, "seed": 0}
    check(values)
    for wrong, text in (
        ({**values, "lr": 1.0}, "lr is not a field of notebook start"),
        ({"preset": "classroom"}, "notebook start lacks the parameter scenes"),
    ):
        with pytest.raises(InputError, match=f"{text}; allowed: preset, scenes, epochs, seed"):
            check(wrong)
    assert parameter_checks.check_for("mine")({"anything": "goes"}) is None


@pytest.mark.process
def test_a_run_can_be_saved_under_another_name(tolerant: runner.Report) -> None:
    folder = tolerant.html.parent
    assert tolerant.name == "other" and sorted(path.name for path in folder.iterdir()) == ["other.html", "other.ipynb"]
    html = tolerant.html.read_text(encoding="utf-8")
    assert "<title>tolerates with its defaults · rislab</title>" in html
    assert '<p class="question">Is 1 &lt; 2?</p>' in html


def test_bad_input_stops_a_run_before_it_starts(lab: Path, tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []

    def check(values: dict[str, object]) -> None:
        seen.append(values)
        raise InputError("seed is 9; allowed: 1")

    with pytest.raises(InputError, match="seed is 9"):
        run(lab, "failing", tmp_path, {"seed": 9}, check=check)
    assert seen == [{"seed": 9}]
    with pytest.raises(InputError, match="unknown parameter 'sed', did you mean 'seed'"):
        run(lab, "failing", tmp_path, {"sed": 9})
    with pytest.raises(InputError, match="unknown report 'faling', did you mean 'failing'"):
        run(lab, "faling", tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------- pages


def test_formulas_become_mathml_and_code_stays(tmp_path: Path) -> None:
    text = "Inline $a<b$ and `$code$`.\n\n$$\\sum_k p_k$$\n\n"
    text += "\\begin{align}x&=1\\\\y&=2\\end{align}\n\n```\n$block$ $$\n```\n"
    html = page(tmp_path, new_markdown_cell(text))
    assert html.count("<math") == 3
    assert html.count('display="block"') == 2
    assert "<mtable" in html
    assert "<code>$code$</code>" in html and "$block$ $$" in html


def test_formulas_survive_what_the_converter_lacks(tmp_path: Path) -> None:
    text = "$$\\begin{aligned}x&=1\\\\y&=2\\end{aligned}$$\n\n$\\arg\\max_x$ and $a<\\frac$."
    html = page(tmp_path, new_markdown_cell(text), displayed({"text/latex": "$\\displaystyle x$", "text/plain": "x"}))
    assert html.count("<mtr>") == 2 and "<mi>&" not in html
    assert "\\arg" not in html
    assert '<code class="tex">a&lt;\\frac</code>' in html
    assert html.count("<math") == 3


def test_what_a_lesson_folds_stands_open_in_a_report(tmp_path: Path) -> None:
    html = page(tmp_path, new_markdown_cell("<details><summary>After</summary>\n\nIt *rises*.\n\n</details>"))
    assert "<p>It <em>rises</em>.</p>" in html and "After" not in html


def test_a_page_without_figures_has_no_scripts(tmp_path: Path) -> None:
    html = page(tmp_path, new_markdown_cell("# Title"), code("1"))
    assert "<script" not in html
    assert len(html) < 50_000


def test_figures_cannot_end_their_script(tmp_path: Path) -> None:
    html = page(tmp_path, plot("</script><b>Loss</b> <!-- \" '"))
    script = re.search(r'<script type="application/json">(.*?)</script>', html)
    assert script is not None and "<" not in script[1]
    assert json.loads(script[1])["layout"]["title"]["text"] == "</script><b>Loss</b> <!-- \" '"
    assert "<b>Loss" not in html


def test_figures_have_a_label(tmp_path: Path) -> None:
    html = page(tmp_path, plot("<b>Loss</b> & bound"), plot(""))
    assert re.findall(r'aria-label="(.*?)"', html) == [
        "Loss &amp; bound. curve: 2 values from 1 to 2, least 1, greatest 2",
        "curve: 2 values from 1 to 2, least 1, greatest 2",
    ]


def test_widgets_and_scripts_are_left_out(tmp_path: Path) -> None:
    widget = displayed({"application/vnd.jupyter.widget-view+json": {"model_id": "abc"}, "text/plain": "Slider()"})
    script = displayed({"application/javascript": "alert(1)", "text/plain": "<Javascript>"})
    notebook = new_notebook(cells=[widget, script])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"abc": "secret"}}}
    target = tmp_path / "page.html"
    html_export.export_html(notebook, target, title="A page", header={})
    html = target.read_text(encoding="utf-8")
    assert not re.search(r"widget|Slider\(|alert\(|secret|Javascript", html)
    assert len(notebook.cells[0].outputs) == 1 and "widgets" in notebook.metadata


def test_a_panel_shows_what_came_of_it_and_not_that_it_still_works(tmp_path: Path) -> None:
    made = new_code_cell("panel = rislab.panels.precision(config)\npanel")
    asked = new_code_cell("rislab.panels.map_history(movie)")
    later = new_code_cell("panel = rislab.panels.precision(config)\nlesson.displays(panel)")
    other = new_code_cell("cells = 7\ncells")
    for cell in (made, asked, later, other):
        cell.outputs = [new_output("execute_result", {"text/plain": f"words of {cell.source.split()[0]}"})]
    drawn = plot("")
    drawn.source = "panel = rislab.panels.quiz()\npanel"
    html = page(tmp_path, made, asked, later, other, drawn)
    assert re.findall("words of ([a-z.]+)", html) == ["cells"] and html.count('aria-label="curve:') == 1


def test_a_number_is_linked_to_the_cell_that_computed_it() -> None:
    verdict = """
        ends = {"loop": last.nmse}
        numbers = {"steps": sum(one.steps for one in runs), "worst": worst}
        display(Measured(numbers | {f"NMSE, {name}": ends[name] for name in ("loop",)}))
    """
    sources = ["one = name = 0", "runs = {}", "runs['a'] = run()", "last = runs['a'][-1]", "x = 1", verdict]
    cells = [new_code_cell(textwrap.dedent(source), id=str(place)) for place, source in enumerate(sources)]
    numbers = [["steps", 5], ["worst", 1], ["NMSE, loop", 0.5]]
    cells[-1].outputs = [new_output("display_data", {MIME: numbers})]
    for cell in cells:
        cell.metadata["papermill"] = {"start_time": "now"}
    found = summarise(new_notebook(cells=cells), "a", {}, {}, question="", error="")
    assert [cell for _, _, cell in found.numbers] == ["2", "5", "3"]


def test_images_are_inside_and_described(tmp_path: Path) -> None:
    (tmp_path / "pixel.png").write_bytes(PIXEL)
    path = write(tmp_path, "a", new_markdown_cell("![One pixel](pixel.png)"), displayed({"image/png": "aGk="}))
    html_export.export_html(path, tmp_path / "a.html", title="A page", header={})
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert [address[:22] for address in Attributes(html).addresses] == ["data:image/png;base64,"] * 2
    assert 'alt="One pixel"' in html and html.count("<img") == html.count("alt=") == 2


def test_the_heading_comes_first_and_titles_are_escaped(tmp_path: Path) -> None:
    html = page(tmp_path, new_markdown_cell("# Own *title*\n\nText."))
    assert re.search(r"<h1>Own <em>title</em></h1>.*<dl.*<dt>seed</dt><dd>7</dd>.*Text\.", html, re.DOTALL)
    html_export.export_html(
        new_notebook(cells=[new_markdown_cell("Text.")]), tmp_path / "b.html", title="<b>", header={"<i>": "<u>"}
    )
    html = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "<title>&lt;b&gt;</title>" in html and "<h1>&lt;b&gt;</h1>" in html
    assert "<dt>&lt;i&gt;</dt><dd>&lt;u&gt;</dd>" in html


def test_a_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page(tmp_path, new_markdown_cell("Old."))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"page.html could not be written: disk full"):
        page(tmp_path, new_markdown_cell("New."))
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_provenance_names_commit_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runner.run_provenance({}, tmp_path)["commit"] == "not a checkout"
    (tmp_path / "a").write_text("1")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "a"], [*identity, "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = runner.run_provenance({"seed": 3}, tmp_path)
    assert re.fullmatch(r"[0-9a-f]{12}", clean["commit"]) and clean["seed"] == "3"
    (tmp_path / "a").write_text("2")
    assert runner.run_provenance({}, tmp_path)["commit"] == f"{clean['commit']}+changes"
    assert re.search(r"python 3\.\d+\.\d+ · torch \S+ · numpy \S+ · plotly \S+ · rislab", clean["versions"])
    assert re.search(r".+, \d+ cores$", clean["machine"]) and clean["date"].endswith("UTC")


def test_provenance_needs_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runner.run_provenance({}, tmp_path)["commit"] == "not a checkout"


def test_importing_reports_is_cheap() -> None:
    heavy = {"papermill", "nbconvert", "nbformat", "plotly", "jupyter_client", "yaml", "latex2mathml"}
    source = "import sys, rislab.reports.runner; print(*sys.modules)"
    # With an option before it, this is no fork, which has imported all.
    done = subprocess.run([sys.executable, "-B", "-c", source], capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(done.stdout.split())


def test_an_installed_package_without_notebooks_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "site-packages" / "rislab" / "reports" / "notebooks.py"))
    with pytest.raises(InputError, match=r"no notebooks .*; allowed: the folder of a checkout: cd rislab"):
        notebooks.available()
    with pytest.raises(InputError, match=r"no notebooks .*; allowed: a folder that holds some"):
        notebooks.available(tmp_path)
