"""`rislab info`: what is installed here, and what it runs on."""

from __future__ import annotations

import argparse
import json
from typing import Any

EXAMPLES = (("info --json", "for a report of a bug"),)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    import torch

    from rislab import provenance

    facts: dict[str, Any] = dict(provenance.versions())
    facts["torch"] = torch.__version__  # with its build (+cpu, +cu130), which some wheels leave out of their metadata
    facts["commit"] = provenance.commit()
    facts["machine"] = provenance.processor()
    facts["threads"] = torch.get_num_threads()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts["devices"] = ", ".join(["cpu", *(f"cuda:{index} {name}" for index, name in enumerate(gpus))])
    facts["widgets"] = _widgets()
    print(json.dumps(facts, indent=2) if options.json else "\n".join(f"{k:<12} {v}" for k, v in facts.items()))
    return 0


def _widgets() -> str:
    """Whether live panels can render here, and if not, which package is missing."""
    try:
        from rislab.panels.api import widgets
    except ModuleNotFoundError as error:
        return f"no: {error.name} not installed; figures are static"
    return widgets()
