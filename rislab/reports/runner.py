"""Reports: run a notebook by papermill in a fresh kernel of this interpreter, and keep what it measured."""

from __future__ import annotations

import copy
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rislab import files
from rislab.errors import InputError
from rislab.provenance import commit, processor, versions
from rislab.reports import notebooks
from rislab.reports.html_export import duration, export_html
from rislab.reports.summary import summarise, verdict_word, without_controls

ANSI = re.compile(r"\x1b\[[0-9;]*m")
# For so long the outputs of a cell are waited for after its reply; a kernel that dies meanwhile is noticed at once.
OUTPUT_SECONDS = 600


@dataclass(frozen=True)
class Report:
    """What a run produced."""

    name: str  # of its files
    html: Path  # path of the page
    notebook: Path  # path of the executed notebook
    parameters: dict[str, object]  # all values, defaults included
    seconds: float  # from the start of the kernel to its end
    ok: bool  # no cell failed
    error: str  # one line that names cell and exception, or empty
    closing: str  # what the notebook's last code cell printed
    unrun: int = 0  # number of code cells that were never run

    @property
    def verdict(self) -> str:
        """One of "passed", "failed" (all cells were run, and one failed) and "partial" (some were not run)."""
        return verdict_word(self.error, self.unrun)


def run_notebook(
    name: str,
    values: Mapping[str, object] | None = None,
    *,
    out: Path = Path("reports/out"),
    folder: Path | None = None,
    check: Callable[[dict[str, object]], object] | None = None,
    progress: bool = True,
    saved_as: str = "",
    question: str = "",
    environment: Mapping[str, str] | None = None,
) -> Report:
    """Run a notebook headless, in a fresh kernel of this interpreter, and write its report.

    Args:
        name: report name, as notebooks.available() lists it.
        values: parameter values that differ from the defaults.
        out: where `<name>.html` and the executed `<name>.ipynb` go; or `saved_as` instead of the name.
        folder: where the notebooks are; see notebooks.available().
        check: called with all parameter values before anything runs, to refuse what types alone cannot.
        progress: show a progress bar on stderr.
        saved_as: name of the files, if it is not that of the notebook.
        question: what this run asks, one sentence for the report's summary.
        environment: variables of the kernel beyond those there are.

    Returns:
        The report; a cell that failed, or a kernel that died or never started, gives `ok=False` and a partial report.

    Raises:
        InputError: an unknown report or parameter, or an ill-typed value; also whatever `check` raises.
    """
    path = notebooks.find_notebook(name, folder)
    given, merged = checked_values(path, values or {}, check)
    files.check_writable(Path(out))
    header = run_provenance(merged, path.parent)
    start = time.perf_counter()
    notebook, fault = _execute(path, given, progress, environment or {})
    seconds = time.perf_counter() - start
    header["duration"] = duration(seconds)
    error = _error_line(notebook, fault)
    page = Path(out) / f"{saved_as or name}.html"
    executed = page.with_suffix(".ipynb")
    top = summarise(notebook, name, notebooks.parameters(path), merged, question=question, error=error)
    shown = without_controls(copy.deepcopy(notebook))
    export_html(shown, page, title=f"{top.run} · rislab", header=header, folder=path.parent, summary=top)
    # papermill notes the scratch paths of this machine.
    notebook.metadata.papermill.update(input_path=path.name, output_path=executed.name)
    files.replace(executed, notebooks.notebook_json(notebook).encode())
    left = notebooks.unrun(notebook)
    return Report(saved_as or name, page, executed, merged, seconds, not error, error, _printed(notebook), left)


def checked_values(
    path: Path, values: Mapping[str, object], check: Callable[[dict[str, object]], object] | None = None
) -> tuple[dict[str, object], dict[str, object]]:
    """Check the values of a run against its notebook, without running anything.

    Args:
        path: the notebook.
        values: those that differ from the defaults.
        check: see run_notebook().

    Returns:
        The given values in the types of the parameters, and all values, defaults included.

    Raises:
        InputError: an unknown parameter, or an ill-typed value; also whatever `check` raises.
    """
    given = notebooks.check_values(path, values)
    merged = {key: parameter.default for key, parameter in notebooks.parameters(path).items()} | given
    if check is not None:
        check(dict(merged))
    return given, merged


def _kernel_manager(environment: Mapping[str, str]) -> type:
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(KernelSpecManager):
        """Has one kernel, that of the running interpreter, whatever other `python3` the user has installed."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            spec = super().get_kernel_spec(kernel_name)
            spec.env = {**spec.env, "RISLAB_LIVE": "0", **environment}
            return spec

    class Manager(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(kernel_spec_manager=ThisInterpreter(kernel_dirs=[]), **options)

    return Manager


def _execute(
    path: Path, values: Mapping[str, object], progress: bool, environment: Mapping[str, str]
) -> tuple[Any, str]:
    import zmq
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    # Without encryption other users of the machine could read the traffic, and the kernel prints a warning.
    encryption = "auto" if zmq.has("curve") else "disabled"
    fault = ""
    with tempfile.TemporaryDirectory() as scratch:
        executed = Path(scratch) / path.name
        try:
            execute_notebook(
                # papermill fills {...} in paths with parameters.
                re.sub(r"[{}]", r"\g<0>\g<0>", str(path)),
                re.sub(r"[{}]", r"\g<0>\g<0>", str(executed)),
                parameters=dict(values),
                kernel_name="python3",
                language="python",
                cwd=str(path.parent),
                progress_bar=progress,
                kernel_manager_class=_kernel_manager(environment),
                config=Config({"KernelManager": {"transport_encryption": encryption}}),
                iopub_timeout=OUTPUT_SECONDS,
            )
        except PapermillExecutionError:
            fault = ""  # the metadata of the cells say which one failed
        except NoSuchKernel:
            fault = f"no Jupyter kernel in {sys.executable}; install ipykernel there"
        except DeadKernelError:
            fault = "the kernel died; it may have run out of memory"
        except CellTimeoutError:  # an OSError too
            fault = f"its outputs did not come within {OUTPUT_SECONDS} s; is the machine overloaded?"
        except RuntimeError as error:
            fault = f"the kernel did not start: {notebooks.first_line(str(error))}"
        except OSError as error:
            # papermill writes the notebook after each cell; its bar does not end its line.
            if progress:
                print(file=sys.stderr)
            raise InputError(f"scratch folder {scratch} could not be written: {error.strerror}") from error
        notebook = notebooks.read_notebook(executed)
    markers = [cell.id for cell in notebooks.tagged(notebook, "papermill-error-cell-tag")]
    notebook.cells = [cell for cell in notebook.cells if cell.id not in markers]
    for cell in notebooks.code_cells(notebook):
        cell.outputs = _joined(cell.outputs)
    notebook.metadata.pop("widgets", None)
    started = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.metadata.papermill.start_time]
    if fault and started:
        started[-1].metadata.papermill.exception = True
    return notebook, fault


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with each text in one piece: a kernel sends what is printed every 0.2 s, wherever a line is by then."""
    joined: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _error_line(notebook: Any, fault: str) -> str:
    cell = notebooks.failed_cell(notebook)
    if cell is None:
        return fault
    errors = [output for output in cell.outputs if output.output_type == "error"]
    reason = f"{errors[-1].ename}: {_words_of(errors[-1])}" if errors else fault
    return f"cell {notebooks.numbered(notebook).get(cell.id, '?')} ({notebooks.first_line(cell.source)[:80]}): {reason}"


def _words_of(error: Any) -> str:
    """What an error of a cell says; of one without words, as of a plain assert, the line of the cell that raised it."""
    plain = ANSI.sub("", "\n".join(error.get("traceback", [])))
    line = re.search(r"^-+> *\d+ (.*)$", plain, re.MULTILINE)
    return notebooks.first_line(error.evalue) or (line[1].strip() if line else "")


def _printed(notebook: Any) -> str:
    code = notebooks.code_cells(notebook)
    return "".join(output.text for output in code[-1].outputs if output.get("name") == "stdout") if code else ""


def run_provenance(values: Mapping[str, object], folder: Path | None = None) -> dict[str, str]:
    """Gather what a reader needs to repeat a run.

    Args:
        values: the parameters of the run; a seed among them is named.
        folder: the notebook's folder, whose git commit is named; by default the current one.

    Returns:
        Label to text: seed, date, commit, versions, machine.
    """
    seed = {"seed": str(values["seed"])} if "seed" in values else {}
    installed = versions(("torch", "numpy", "plotly", "rislab"))
    return seed | {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(folder or Path.cwd()),
        "versions": " · ".join(f"{name} {version}" for name, version in installed.items()),
        "machine": processor(),
    }
