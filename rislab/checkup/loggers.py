"""Findings in the loggers of experiments: how many there are, as scalars, and what they say, as a table.

No logger is a dependency: each is given, or imported where it is used.
"""

from __future__ import annotations

import html
import importlib
from typing import Any

from rislab.checkup.findings import SEVERITIES, Findings
from rislab.errors import InputError


def log_to_tensorboard(findings: Findings, writer: Any, *, step: int | None = None, tag: str = "checkup") -> None:
    """Log findings to TensorBoard.

    Args:
        findings: of a checkup.
        writer: a SummaryWriter.
        step: of the training; None if it does not matter.
        tag: before the names of all that is logged.
    """
    for name, count in counts_by_severity(findings, tag).items():
        writer.add_scalar(name, count, step)
    writer.add_text(f"{tag}/findings", markdown_table(findings), step)


def log_to_wandb(findings: Findings, run: Any, *, step: int | None = None, tag: str = "checkup") -> None:
    """Log findings to Weights & Biases, offline as well.

    Args:
        findings: of a checkup.
        run: what wandb.init() gave.
        step: of the training; None for the next one of the run.
        tag: before the names of all that is logged.

    Raises:
        InputError: if wandb is not installed.
    """
    head, rows = findings.table()
    table = _imported("wandb").Table(columns=head, data=rows)
    run.log({**counts_by_severity(findings, tag), f"{tag}/findings": table}, step=step)


def log_to_mlflow(
    findings: Findings, *, run_id: str | None = None, step: int | None = None, tag: str = "checkup"
) -> None:
    """Log findings to MLflow, wherever its tracking address points; the table is an artifact.

    Args:
        findings: of a checkup.
        run_id: of a run; None for the active one.
        step: of the training; None if it does not matter.
        tag: before the names of all that is logged.

    Raises:
        InputError: if mlflow is not installed.
    """
    mlflow = _imported("mlflow")
    mlflow.log_metrics(counts_by_severity(findings, tag), step=step, run_id=run_id)
    mlflow.log_text(markdown_table(findings), f"{tag}/findings.md", run_id=run_id)


def counts_by_severity(findings: Findings, tag: str = "checkup") -> dict[str, int]:
    """How many findings of each severity there are, and how many were not judged; a tag stands before each name."""
    counts = {f"{tag}/{name}s": sum(one.severity == name for one in findings.of("note")) for name in SEVERITIES}
    return counts | {f"{tag}/unjudged": len(findings.unjudged)}


def markdown_table(findings: Findings) -> str:
    """The verdict and the findings as a table in Markdown."""
    head, rows = findings.table()
    lines = [head, ["---"] * len(head), *rows] if rows else []
    table = [
        f"| {' | '.join(html.escape(cell, quote=False).replace('|', '&#124;') for cell in line)} |" for line in lines
    ]
    return "\n".join([findings.verdict, "", *table]).rstrip() + "\n"


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise InputError(f"{package} is not installed; install it with pip install {package}") from None
