"""The magics of a notebook: in a shell of this process, and once in a kernel."""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.config import Config

import rislab
from rislab.checkup.findings import Finding, Findings
from rislab.checkup.notebook import WATCHING, CellError, load_ipython_extension
from rislab.checkup.options import OPTIONS
from rislab.checkup.output.report import CheckupReport
from rislab.errors import InputError
from tests.checkup.test_html_table import Cells

SETUP = """
import torch
from torch import nn
torch.manual_seed(0)
network = nn.Linear(4, 1)
optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
x, y = torch.randn(32, 4), torch.randn(32, 1)
def train(divisor, steps=3):
    for i in range(4 * steps):
        part = slice(4 * (i % 8), 4 * (i % 8) + 4)
        loss = nn.functional.mse_loss(network(x[part]), y[part])
        (loss / divisor).backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return loss.item()
"""


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A shell in which SETUP has run as the first cell."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # it puts its own there
    made = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}, colors="nocolor"))
    load_ipython_extension(made)
    run(made, SETUP)
    yield made
    atexit.unregister(made.atexit_operations)
    made.atexit_operations()
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, cell: str) -> Any:
    return shell.run_cell(cell, store_history=True)


def report(shell: InteractiveShell) -> CheckupReport:
    last: CheckupReport = run(shell, "%checkup_report").result
    return last


def test_a_fault_is_named_with_its_cell_and_line(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shell, "%%checkup --accumulation-steps 4\nlast = train(divisor=16)\nlast").success
    shown = capsys.readouterr().out
    assert "Out[2]: " in shown and "C1 divided twice" in shown and "where: Cell In[1], line 13" in shown
    assert "Found 1 fault." in shown and isinstance(shell.user_ns["last"], float)
    last = report(shell)
    assert [one.name for one in last.findings.faults] == ["divided twice"] and last.steps == 3
    assert last.optimisers == ["SGD over Linear: weight, bias"]


def test_what_was_made_in_earlier_cells_is_watched_from_its_first_window(shell: InteractiveShell) -> None:
    run(shell, "%%checkup --accumulation-steps 4\ntrain(divisor=16, steps=1)")
    assert "step 1" in report(shell).findings.faults[0].evidence
    run(shell, "%%checkup --accumulation-steps 4\ntrain(divisor=4, steps=1)")
    assert not report(shell).findings.of("warning") and not report(shell).findings.unjudged


def test_the_lines_of_the_readme(shell: InteractiveShell) -> None:
    text = (Path(rislab.__file__).parents[1] / "README.md").read_text()
    block = next(part for part in text.split("```") if "%load_ext rislab" in part)
    run(shell, "model, train = network, lambda model, optimizer, inner=train: inner(16)")
    cells = block.strip().split("\n\n")
    assert len(cells) == 3 and sum(len(cell.splitlines()) for cell in cells) == 4
    assert all(run(shell, cell).success for cell in cells)
    assert shell.user_ns["report"].findings.faults and isinstance(shell.user_ns["losses"], float)


def test_lines_of_the_cell_keep_their_numbers(shell: InteractiveShell) -> None:
    loop = [
        "for i in range(8):",
        "    loss = network(x).square().mean()",
        "    loss.backward()",
        "    optimizer.step()",
    ]
    run(shell, "\n".join(["%%checkup", *loop]))
    assert {one.where for one in report(shell).findings.faults} == {"Cell In[2], line 5"}


WATCHED = """
import rislab
with rislab.watch(network, optimizer, accumulation_steps=4) as watch:
    train(divisor=16)
found = watch.findings()
""".strip()
DROPPED = """
class Dropped(nn.Linear):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5))
batches = [(x, y), (x + 1, y)]
tried = rislab.probe(Dropped(4, 1), nn.functional.mse_loss, batches, only=["P11"])
""".strip()


def test_a_bare_watch_and_a_probe_name_cell_and_line(shell: InteractiveShell) -> None:
    assert run(shell, WATCHED).success
    [fault] = shell.user_ns["found"].faults
    assert fault.name == "divided twice" and fault.where == "Cell In[1], line 13"
    assert "Cell In[1], line 13" in str(fault) and "Cell In[1], line 13" in shell.user_ns["found"]._repr_html_()
    assert run(shell, DROPPED).success
    assert [one.where for one in shell.user_ns["tried"].faults] == ["Cell In[3], line 3"]
    assert run(shell, f"%%checkup\n{WATCHED}").success
    assert shell.user_ns["found"].faults[0].where == "Cell In[1], line 13"


FITTED = """
from rislab.checkup.fit_watch import FitWatch, Framework, TrainedLoop, TrainerSettings
from rislab.checkup.recording.windows import Declared
fit = FitWatch("train()", "print", None)
declared = Declared(4, mean="")
fit.begin(Framework("torch", (2, 0), (9, 9)), lambda: TrainerSettings([TrainedLoop(optimizer, network)], declared))
train(divisor=16)
fit.end()
""".strip()


def test_the_checkup_of_a_trainer_names_cell_and_line(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shell, FITTED).success
    assert [one.where for one in shell.user_ns["fit"].findings.faults] == ["Cell In[1], line 13"]
    assert "where: Cell In[1], line 13" in capsys.readouterr().out


def test_a_place_within_the_numbers_is_named_too(shell: InteractiveShell) -> None:
    run(
        shell,
        f"import inspect\ndef here():\n    return f'x at {{inspect.stack()[0].filename}}:{{3}}, on y:2, {__file__}:1'",
    )
    text = run(shell, "here()").result
    finding = Finding("C1", "divided twice", "fault", text)
    assert Findings([finding]).in_cells()[0].evidence == f"x at Cell In[2], line 3, on y:2, {__file__}:1"


def test_a_wrong_name_in_a_comment_is_told_with_its_cell(shell: InteractiveShell) -> None:
    run(shell, SETUP.replace("optimizer.step()", "optimizer.step()  # rislab: ignore[C99]"))
    run(shell, "%%checkup --accumulation-steps 4\ntrain(16)")
    [remark] = [one for one in report(shell).remarks if "C99" in one]
    assert remark.startswith("Cell In[2], line 13: ")


def test_the_cell_computes_what_it_computes_unwatched(shell: InteractiveShell) -> None:
    weights = []
    for magic in ("", "%%checkup --every 1\n"):
        run(shell, SETUP)
        run(shell, f"{magic}last = train(4)\nnoise = torch.rand(3)")
        weights.append([shell.user_ns["network"].weight.detach().clone(), shell.user_ns["noise"]])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    assert not shell.user_ns["network"]._forward_hooks and shell.custom_exceptions == ()


SCALED = """
class Trainer:
    def __init__(self):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    def fit(self):
        for i in range(8):
            self.scaler.scale(nn.functional.mse_loss(network(x), y)).backward()
            self.scaler.step(optimizer)
            self.scaler.update()
            optimizer.zero_grad()
trainer = Trainer()
def start():
    trainer.fit()
"""


@pytest.mark.slow
def test_a_scaler_of_an_earlier_cell_is_that_of_the_loop_if_the_cell_uses_it(shell: InteractiveShell) -> None:
    run(shell, SCALED)
    run(shell, "%%checkup\nstart()")
    assert [one.name for one in report(shell).findings.of("warning")] == ["scaler without autocast"]
    run(shell, "%%checkup --accumulation-steps 4\ntrain(4)")
    assert report(shell).findings.of("warning") == []


def test_an_exception_is_shown_with_the_findings_so_far(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(shell, "%%checkup\nlast = train(16)\n1 / 0")
    assert isinstance(result.error_in_exec, CellError)
    assert isinstance(result.error_in_exec.__cause__, ZeroDivisionError)
    shown = capsys.readouterr().out
    parts = ("Traceback", "the cell crashed", "divided twice", "the watched cell was ended by ZeroDivisionError")
    places = [shown.index(part) for part in parts]
    assert places == sorted(places) and shown.count("Traceback") == 1
    assert "last" in shell.user_ns
    assert report(shell).findings.faults and report(shell).failed


def test_a_cell_is_stopped_after_so_many_steps(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shell, "%%checkup --steps 2  # a look\ntrain(4)").success
    shown = capsys.readouterr().out
    assert "the cell was stopped after 2 steps" in shown and "Traceback" not in shown
    assert run(shell, "%%checkup\ntrain(4)").success
    assert report(shell).steps == 3


def test_a_comment_on_the_line_silences(shell: InteractiveShell) -> None:
    run(shell, SETUP.replace("optimizer.step()", "optimizer.step()  # rislab: ignore[C1]"))
    run(shell, "%%checkup --accumulation-steps 4\ntrain(16)")
    assert not report(shell).findings.faults
    assert [one.by for one in report(shell).silenced] == ["comment"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%%checkup --accumulation-stepz 4\nx", "unrecognized arguments: --accumulation-stepz 4"),
        ("%%checkup --accumulation-steps\nx", "expected one argument"),
        ("%%checkup --accumulation-steps 0\nx", "accumulation_steps is 0; allowed: a whole number"),
        ("%%checkup --clip-norm much\nx", "invalid float value: 'much'"),
        ("%%checkup --mean median\nx", "mean is 'median'; allowed: 'samples', 'batches'"),
        ("%%checkup '\nx", "No closing quotation"),
        ("%%checkup\nawait x", "the cell awaits something at its top level"),
        ("%checkup_report", "%checkup_report comes before any %%checkup"),
        ("%checkup_report now", "is given 'now'; allowed: nothing"),
    ],
)
def test_a_wrong_use_is_one_line(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], cell: str, message: str
) -> None:
    assert not run(shell, cell).success
    shown = capsys.readouterr().err
    assert shown.startswith("UsageError: ") and message in " ".join(shown.split())


def test_the_help_names_all_options(shell: InteractiveShell) -> None:
    text = shell.object_inspect("%%checkup")["docstring"]
    assert "watched" in text and all(f"--{name.replace('_', '-')}" in text for name in WATCHING)
    assert OPTIONS["every"].help in text


def test_a_cell_that_trains_nothing_or_is_no_python(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shell, "%%checkup\nz = 3").success
    assert "no backward and no step was seen" in capsys.readouterr().out and shell.user_ns["z"] == 3
    result = run(shell, "%%checkup\nz = ")
    assert isinstance(result.error_in_exec.__cause__, SyntaxError)
    assert "after 0 steps" not in capsys.readouterr().out
    assert run(shell, "%%checkup\n%%capture inner\nprint(z)").success
    assert shell.user_ns["inner"].stdout == "3\n"


def test_the_table_has_a_caption_and_titles(shell: InteractiveShell) -> None:
    run(shell, "%%checkup --accumulation-steps 4\ntrain(16)")
    page = report(shell)._repr_html_()
    cells = Cells(page).cells
    assert "<caption" in page and "Found 1 fault.</caption>" in page
    assert [text for tag, attributes, text in cells if attributes.get("scope") == "col"][:3] == [
        "severity",
        "code",
        "what",
    ]
    assert [text for tag, attributes, text in cells if attributes.get("scope") == "row"] == ["divided twice"]
    assert all(text for tag, _, text in cells if tag == "th")


LIGHT = """
import sys
import rislab.checkup.notebook
assert "IPython" not in sys.modules and "torch" not in sys.modules
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
assert shell.run_cell("%load_ext rislab").success
assert "torch" not in sys.modules and "checkup" in shell.magics_manager.magics["cell"]
"""


@pytest.mark.process
def test_loading_the_extension_brings_no_torch() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, timeout=900)


@pytest.mark.process
def test_in_a_kernel_the_table_is_shown_and_nothing_of_the_lab_is_imported() -> None:
    cells = [
        "%load_ext rislab",
        SETUP,
        "%%checkup --accumulation-steps 4\ntrain(16)",
        "%checkup_report",
        "%%checkup\ntrain(4)\n1 / 0",
        f"%%checkup{SETUP}",
        "%%checkup --accumulation-steps 4\ntrain(16)",
        f"{WATCHED}\nprint(found[0].where)",
        "import sys\nprint(sorted({'plotly', 'ipywidgets', 'anywidget', 'papermill'} & set(sys.modules)))",
    ]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=900, kernel_name="python3", allow_errors=True).execute()
    nbformat.validate(notebook)
    outputs = [cell.outputs for cell in notebook.cells]
    watched = next(one for one in outputs[2] if one.output_type == "display_data")
    again = next(one for one in outputs[3] if one.output_type == "execute_result")
    for shown in (watched, again):
        assert "divided twice" in shown.data["text/html"] and "Cell In[2], line 13" in shown.data["text/html"]
        assert "divided twice" in shown.data["text/plain"]
    errors = [one.ename for one in outputs[4] if one.output_type == "error"]
    assert errors == ["ZeroDivisionError", "CellError"]
    # A function that was made in a watched cell; the magic is line 1 there, as the empty line above is not.
    later = next(one for one in outputs[6] if one.output_type == "display_data")
    assert "Cell In[6], line 14" in later.data["text/html"]
    assert outputs[7][0].text == "Cell In[6], line 14\n"
    assert outputs[8][0].text == "[]\n"


def test_refused_input_is_one_sentence_in_a_notebook(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """Forty lines of source stood above it, and below the cell nothing of it was to be seen."""
    capsys.readouterr()
    done = run(shell, "from rislab.sanity import OverfitConfig\nOverfitConfig(scenes=3)")
    shown = capsys.readouterr()
    assert isinstance(done.error_in_exec, InputError) and f"{shown.out}{shown.err}".strip().splitlines() == [
        f"InputError: {done.error_in_exec}"
    ]
