"""What loggers of experiments are given: stand-ins with the signatures of the libraries, and TensorBoard itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rislab
from rislab.checkup.findings import Finding, Findings
from rislab.checkup.loggers import log_to_mlflow, log_to_tensorboard, log_to_wandb, markdown_table
from rislab.errors import InputError

FINDINGS = Findings(
    [
        Finding("C9", "not judged", "note", "as nobody knows it"),
        Finding("C1", "divided twice", "fault", "α = 0.25, |g| < |r|", "divide once", "train.py:7"),
        Finding("C11", "scheduler per micro-batch", "warning", "4 ticks"),
        Finding("C1", "divided twice", "fault", "α = 0.5", "divide once", "train.py:9"),
    ]
)
COUNTS = {"checkup/faults": 2, "checkup/warnings": 1, "checkup/notes": 0, "checkup/unjudged": 1}
MARKDOWN = """Found 2 faults, 1 warning. Not judged: C9.

| severity | code | what | numbers | where | how to fix | read on |
| --- | --- | --- | --- | --- | --- | --- |
| fault | C1 | divided twice | α = 0.25, &#124;g&#124; &lt; &#124;r&#124; | train.py:7 | divide once | rislab faults """


class Writer:
    """torch.utils.tensorboard.SummaryWriter."""

    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int | None]] = {}
        self.texts: dict[str, tuple[str, int | None]] = {}

    def add_scalar(
        self, tag: str, scalar_value: float, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        self.scalars[tag] = scalar_value, global_step

    def add_text(
        self, tag: str, text_string: str, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        self.texts[tag] = text_string, global_step


def test_the_table_in_markdown() -> None:
    assert markdown_table(FINDINGS).startswith(MARKDOWN)
    assert all(line.count(" | ") == 6 for line in markdown_table(FINDINGS).splitlines()[2:])
    assert markdown_table(Findings()) == "All checks passed.\n"


def test_tensorboard_gets_scalars_and_a_text() -> None:
    writer = Writer()
    log_to_tensorboard(FINDINGS, writer, step=3)
    assert writer.scalars == {name: (count, 3) for name, count in COUNTS.items()}
    assert writer.texts == {"checkup/findings": (markdown_table(FINDINGS), 3)}
    log_to_tensorboard(FINDINGS, writer, tag="fold 1")
    assert writer.scalars["fold 1/faults"] == (2, None)


def test_wandb_gets_one_entry_with_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[dict[str, Any], int | None]] = []

    def log(data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        logged.append((data, step))

    def table(columns: list[str] | None = None, data: list[list[Any]] | None = None) -> SimpleNamespace:
        return SimpleNamespace(columns=columns, data=data)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Table=table))
    log_to_wandb(FINDINGS, SimpleNamespace(log=log), step=5)
    ((data, step),) = logged
    shown = data.pop("checkup/findings")
    assert data == COUNTS and step == 5
    assert shown.columns[:3] == ["severity", "code", "what"]
    assert [row[2] for row in shown.data] == [one.name for one in FINDINGS]
    assert all(len(row) == len(shown.columns) for row in shown.data)


def test_mlflow_gets_metrics_and_an_artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: list[Any] = []
    artifacts: list[Any] = []

    def log_metrics(
        metrics_: dict[str, float], step: int | None = None, synchronous: bool | None = None, run_id: str | None = None
    ) -> None:
        metrics.append((metrics_, step, run_id))

    def log_text(text: str, artifact_file: str, run_id: str | None = None) -> None:
        artifacts.append((text, artifact_file, run_id))

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(log_metrics=log_metrics, log_text=log_text))
    log_to_mlflow(FINDINGS, step=2, run_id="abc")
    assert metrics == [(COUNTS, 2, "abc")]
    assert artifacts == [(markdown_table(FINDINGS), "checkup/findings.md", "abc")]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package} is not installed; install it with pip install {package}"):
        log_to_wandb(FINDINGS, None) if package == "wandb" else log_to_mlflow(FINDINGS)


def test_the_lines_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(rislab.__file__).parents[1] / "README.md").read_text()
    block = next(part for part in text.split("```") if "import log_to_mlflow" in part).removeprefix("python")
    logged: list[str] = []
    wandb = SimpleNamespace(Table=lambda columns, data: len(data))
    mlflow = SimpleNamespace(
        log_metrics=lambda *args, **named: logged.append("metrics"),
        log_text=lambda *args, **named: logged.append("text"),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    run = SimpleNamespace(log=lambda data, step: logged.append(f"{data['checkup/findings']} rows"))
    writer = Writer()
    exec(block, {"report": SimpleNamespace(findings=FINDINGS), "writer": writer, "run": run, "step": 1})
    assert writer.scalars and writer.texts and logged == ["4 rows", "metrics", "text"]


# In the extra `test`; a test that is not there is no test that is skipped.
if importlib.util.find_spec("tensorboard") is not None:

    def test_tensorboard_itself_reads_what_was_written(tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(tmp_path)) as writer:
            log_to_tensorboard(FINDINGS, writer, step=3)
        events = EventAccumulator(str(tmp_path)).Reload()
        assert {name: (event.value, event.step) for name in COUNTS for event in events.Scalars(name)} == {
            name: (count, 3) for name, count in COUNTS.items()
        }
        (text,) = events.Tensors("checkup/findings/text_summary")
        assert text.tensor_proto.string_val[0].decode() == markdown_table(FINDINGS)
