"""A Finding: what a checkup says of a training loop, with its numbers first."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SEVERITIES = ("fault", "warning", "note")
MARKS = {"fault": "FAULT  ", "warning": "WARNING", "note": "note   "}

FIXES = {
    "never divided": "multiply each micro-batch loss by its share of the window before backward",
    "divided on the first batch only": "divide in every pass of the loop, not inside a branch",
    "divided twice": "divide the loss once: either here or in the library that accumulates",
    "ragged window divided by K": "weigh by the samples that the last window really holds, not by K",
    "mean of means in the window": "weigh each micro-batch by its samples over those of the window",
    "window off by one": "end a window where (i + 1) % K == 0, with i from 0",
    "tail never stepped": "take a step for what is left at the end of an epoch",
    "left-overs leak": "step, or zero the gradients, at the end of an epoch",
    "zeroed per micro-batch": "zero the gradients once a window, after the step",
    "zeroed before the step": "call zero_grad after the step, or before the first backward of a window",
    "never zeroed": "call optimizer.zero_grad() once a window",
    "step per micro-batch": "step only where a window ends",
    "loop tail dedented": "indent loss, backward and step into the loop over micro-batches",
    "loop tail in a branch never taken": "move backward and step out of the branch, into the loop over micro-batches",
    "step in a branch never taken": "test the condition under which the step stands: it was never met",
    "accumulated in bf16": "keep gradients in float32 between micro-batches",
    "clipped before unscaling": "call scaler.unscale_(optimizer) before clipping",
    "never clipped": "clip between the last backward of a window and its step",
    "clipped per micro-batch": "clip once a window, after the last backward",
    "scaler bypassed": "call scaler.step(optimizer) instead of optimizer.step()",
    "stepped twice": "step once a window",
    "NaN made 0 in the gradient": "skip the step and record it, instead of replacing NaN",
    "learning rate 0 at the first step": "begin the warm-up at its first rate above 0",
    "scheduler before the optimiser": "step the scheduler after the optimiser",
    "scheduler per micro-batch": "step the scheduler once a window, after the step",
    "schedule runs over skipped steps": "step the scheduler only if the optimiser really stepped",
    "scheduler never stepped": "step the scheduler at the cadence that its lengths are counted in",
    "schedule stepped per epoch": "step the scheduler after each step of the optimiser, or count its lengths in epochs",
    "scaler without autocast": "run forward and loss under autocast, or leave out the scaler",
    "optimiser holds stale parameters": "make the optimiser after the model has its last parameters",
    "weights kept in bf16": "keep the weights in float32, and run the layers under autocast",
    "eval never undone": "call model.train() at the start of each epoch",
    "loss detached": "do not detach the loss, and do not compute it under no_grad",
    "nothing reported": "report the mean of the raw losses once an epoch",
    "the same loss again": "set the running sums back at the start of each epoch, and report what was added up",
    "last over n": "add up the losses inside the loop",
    "only the last micro-batch": "average the losses of all micro-batches",
    "logged after the division": "log the raw loss, before it is divided",
    "mean of unequal means": "weigh each batch mean by its samples",
    "sum of means over the set's size": "divide by the number of batches, or multiply each mean by its samples",
    "NaN replaced by the running mean": "report NaN as NaN",
    "rounded to four digits": "report all digits, in scientific form where it is small",
}  # fmt: skip

DOCS = "https://docs.pytorch.org/docs/stable/"
# Where the right way of what a check looks at is written down.
READING = {
    "C1": f"{DOCS}notes/amp_examples.html#gradient-accumulation",
    "C2": f"{DOCS}notes/amp_examples.html#gradient-accumulation",
    "C3": f"{DOCS}notes/amp_examples.html#gradient-accumulation",
    "C4": f"{DOCS}optim.html#constructing-it",
    "C5": f"{DOCS}amp.html#gradient-scaling",
    "C6": f"{DOCS}optim.html#how-to-adjust-learning-rate",
    "C7": f"{DOCS}notes/amp_examples.html#gradient-clipping",
    "C8": f"{DOCS}optim.html#taking-an-optimization-step",
    "C9": f"{DOCS}optim.html#taking-an-optimization-step",
    "C10": f"{DOCS}optim.html#taking-an-optimization-step",
    "C11": f"{DOCS}optim.html#how-to-adjust-learning-rate",
    "C12": f"{DOCS}notes/autograd.html#evaluation-mode-nn-module-eval",
    "C13": f"{DOCS}notes/amp_examples.html#typical-mixed-precision-training",
}


@dataclass(frozen=True)
class Finding:
    """One thing that a checkup has found.

    Args:
        code: of the check, "C1" … "C14". name: of the fault, as the catalogue has it. aliases: names of other faults
            that show the same, from outside.
        severity: "fault", "warning" or "note".
        evidence: the numbers, and what they were measured on. where: file and line that the event was seen at, or "".
        fix: what to change.
    """

    code: str
    name: str
    severity: str
    evidence: str
    fix: str = ""
    where: str = ""
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{MARKS[self.severity]} {self.code} {self.name}: {self.evidence}"]
        parts += [f"        where: {self.where}"] if self.where else []
        parts += [f"        fix: {self.fix}"] if self.fix else []
        parts += [f"        read on: {self.read_on}"] if self.read_on else []
        parts += [f"        may also be: {', '.join(self.aliases)}"] if self.aliases else []
        return "\n".join(parts)

    @property
    def read_on(self) -> str:
        """Where more is told of a fault or a warning: the catalogue, or else the documentation of PyTorch; or ""."""
        from rislab.faults.catalogue import FAULTS

        if self.severity == "note":
            return ""
        known = any(fault.name == self.name for fault in FAULTS)
        return f'rislab faults "{self.name}"' if known else READING.get(self.code, "")


class Findings(list[Finding]):
    """Findings, faults first; a table in a notebook, and lines in a terminal."""

    def __init__(self, found: Iterable[Finding] = ()) -> None:
        super().__init__(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))

    @property
    def faults(self) -> list[Finding]:
        """Those of severity "fault"."""
        return [finding for finding in self if finding.severity == "fault"]

    def __str__(self) -> str:
        return "\n".join(map(str, self)) if self else "nothing to report"

    def _repr_html_(self) -> str:
        if not self:
            return "<p>nothing to report</p>"
        head: tuple[str, ...] = ("", "code", "what", "numbers", "where", "how to fix", "read on", "may also be")
        rows: list[tuple[str, ...]] = [
            (f"<b>{f.severity}</b>", f.code, f.name, f.evidence, f.where, f.fix, f.read_on, ", ".join(f.aliases))
            for f in self
        ]
        # A column that says nothing takes the room of one that does.
        said = [place for place in range(len(head)) if place < 4 or any(row[place] for row in rows)]
        head, rows = tuple(head[place] for place in said), [tuple(row[place] for place in said) for row in rows]
        cell = "style='text-align:left;padding:2px 8px;vertical-align:top'"
        top = "".join(f"<th {cell}>{name}</th>" for name in head)
        body = "".join(
            "<tr>" + f"<td {cell}>{row[0]}</td>" + "".join(f"<td {cell}>{html.escape(part)}</td>" for part in row[1:])
            for row in rows
        )
        return f"<table style='font-size:13px'><tr>{top}</tr>{body}</table>"


def fault(code: str, name: str, evidence: str, where: str = "", aliases: tuple[str, ...] = ()) -> Finding:
    """A Finding of something that is wrong."""
    return Finding(code, name, "fault", evidence, FIXES.get(name, ""), where, aliases)


def warning(code: str, name: str, evidence: str, where: str = "", aliases: tuple[str, ...] = ()) -> Finding:
    """A Finding of something that may be meant."""
    return Finding(code, name, "warning", evidence, FIXES.get(name, ""), where, aliases)


def note(code: str, name: str, evidence: str, aliases: tuple[str, ...] = ()) -> Finding:
    """A Finding of something to know."""
    return Finding(code, name, "note", evidence, aliases=aliases)


def listed(names: Sequence[object], shown: int = 4) -> str:
    """The first few names, and how many there are besides."""
    return ", ".join(map(str, names[:shown])) + (f" and {len(names) - shown} more" if len(names) > shown else "")
