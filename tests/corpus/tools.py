"""The tools that are compared: how each is installed, run on a script, and read."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rislab

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv-rivals"
Command = Callable[[Path, Path, Mapping[str, Any]], list[str]]
LEVELS = ("error", "warning")
# Declarations that the command line takes; the others are for readers.
DECLARED = ("accumulation_steps", "mean", "clip_norm", "epochs", "scheduler_interval")


def interpreter(name: str) -> Path:
    """Of an environment."""
    return ENVIRONMENTS / name / "bin" / "python"


def site_packages(name: str) -> Path:
    """Of an environment."""
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return ENVIRONMENTS / name / "lib" / python / "site-packages"


def install(name: str, *packages: str) -> str:
    """Make an environment, with this one's packages within reach; returns why that failed, or ""."""
    done = site_packages(name) / "installed"
    if done.exists() and done.read_text() == " ".join(packages):
        return ""
    ENVIRONMENTS.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENTS / name], check=True)
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages(name) / "of_this_environment.pth").write_text("\n".join(here))
    torch = f"torch=={version('torch').partition('+')[0]}"
    command = [interpreter(name), "-m", "pip", "install", "--disable-pip-version-check", "-q", torch, *packages]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        return f"cannot be installed: {result.stderr.strip().splitlines()[-1][:200]}"
    done.write_text(" ".join(packages))
    return ""


@dataclass(frozen=True)
class Said:
    """One finding of a tool.

    Args:
        name: of what it found, as the tool's documentation lists it.
        level: "error" or "warning"; milder findings are left out.
        aliases: other names that the tool gives beside it.
        text: its message.
    """

    name: str
    level: str
    aliases: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a tool says about a script; `cannot` says why it could not be run, "" if it could."""

    findings: tuple[Said, ...] = ()
    cannot: str = ""


@dataclass(frozen=True)
class Tool:
    """One tool.

    Args:
        name: of the tool.
        how: it is run, and on what.
        package: that pip installs into an environment of its own, "" if none.
        command: of a script, a file for its report and the case's declarations; with `of_script`, the arguments alone.
        read: of the report, standard output and exit code.
        version: what a result stands for.
        of_script: False if it reads the script and runs nothing of it.
    """

    name: str
    how: str
    package: str
    command: Command
    read: Callable[[Path, str, int], Outcome]
    version: str
    of_script: bool = True

    @property
    def site_packages(self) -> Path:
        """Of its own environment."""
        return site_packages(self.name)

    def install(self) -> str:
        """Make its environment, with this one's torch within reach; returns why that failed, or ""."""
        return install(self.name, self.package) if self.package else ""


def _of_rislab(declared: bool) -> Command:
    def command(script: Path, out: Path, declarations: Mapping[str, Any]) -> list[str]:
        options = [
            text
            for name in DECLARED
            if declared and name in declarations
            for text in (f"--{name.replace('_', '-')}", str(declarations[name]))
        ]
        return ["checkup", "--format", "json", "--output", f"{out}", *options, str(script)]

    return command


def _read_rislab(out: Path, stdout: str, code: int) -> Outcome:
    if not out.exists():
        return Outcome(cannot=f"no report, exit code {code}")
    report = json.loads(out.read_text())
    levels = {"fault": "error", "warning": "warning"}
    found = tuple(
        Said(one["name"], levels[one["severity"]], tuple(one["aliases"]), one["evidence"])
        for one in report["findings"]
        if one["severity"] in levels
    )
    cannot = "could not be run: " + report["verdict"] if report["exit_code"] == 2 and not found else ""
    return Outcome(found, cannot)


def _adapted(tool: str) -> Command:
    return lambda script, out, _: [tool, str(script), str(out)]


def _read_adapted(out: Path, stdout: str, code: int) -> Outcome:
    if not out.exists():
        return Outcome(cannot=f"no report, exit code {code}")
    report = json.loads(out.read_text())
    return Outcome(
        tuple(
            Said(one["name"], one["level"], tuple(one.get("aliases", ())), one["text"]) for one in report["findings"]
        ),
        report["cannot"],
    )


def _of_environment(name: str, *words: str) -> Command:
    folder = ENVIRONMENTS / name / "bin"
    return lambda script, out, _: [str(folder / words[0]), *words[1:], str(script)]


def _read_preflight(out: Path, stdout: str, code: int) -> Outcome:
    report = json.loads(stdout)
    rows = report["diagnostics"] if isinstance(report, dict) else report
    return Outcome(
        tuple(Said(row["code"], row["severity"], (), row["message"]) for row in rows if row["severity"] in LEVELS)
    )


def _read_mldoct(out: Path, stdout: str, code: int) -> Outcome:
    rows = json.loads(stdout)
    levels = {"CRITICAL": "error", "ERROR": "error", "WARNING": "warning"}
    return Outcome(
        tuple(Said(r["type"], levels[r["severity"]], (), r["message"]) for r in rows if r["severity"] in levels)
    )


def _mldoct(script: Path, out: Path, _: Mapping[str, Any]) -> list[str]:
    """What `mldoctor check` prints as a table, as JSON."""
    code = "import json, sys; from mldoctor.linter import lint_script; print(json.dumps(lint_script(sys.argv[1])[0]))"
    return [str(ENVIRONMENTS / "mldoct" / "bin" / "python"), "-c", code, str(script)]


def _read_ruff(out: Path, stdout: str, code: int) -> Outcome:
    return Outcome(tuple(Said(row["code"] or "syntax", "error", (), row["message"]) for row in json.loads(stdout)))


def _read_mypy(out: Path, stdout: str, code: int) -> Outcome:
    rows = re.findall(r": error: (.*?)(?:  \[([\w-]+)\])?$", stdout, re.MULTILINE)
    return Outcome(tuple(Said(name or "error", "error", (), text) for text, name in rows))


def _sources() -> str:
    """A hash of the checkup's sources, so that a result stands for one state of them."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "rislab" / "checkup").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _python(*words: str) -> Command:
    return lambda script, out, _: [sys.executable, "-m", *words, str(script)]


OURS = f"rislab {rislab.__version__}, checkup {_sources()}"
UNDECLARED, DECLARING = "rislab", "rislab declared"
TOOLS = (
    Tool(UNDECLARED, "`rislab checkup SCRIPT`", "", _of_rislab(False), _read_rislab, OURS),
    Tool(
        DECLARING, "`rislab checkup SCRIPT` with the case's accumulation steps, mean and clip norm", "",
        _of_rislab(True), _read_rislab, OURS,
    ),
    Tool(
        "rislab watch", "`rislab.watch()` of each optimiser and the network that it holds", "",
        _adapted("watch"), _read_adapted, OURS,
    ),
    Tool(
        "rislab probe", "`rislab.probe()` on the first batch", "", _adapted("probe"), _read_adapted, OURS,
    ),
    Tool(
        "torch-audit", "autopatch() of each network at its optimiser, every step", "torch-audit==0.3.0",
        _adapted("torch-audit"), _read_adapted, "0.3.0",
    ),
    Tool(
        "torch-preflight", "`torch-preflight check SCRIPT`", "torch-preflight==0.5.0",
        _of_environment("torch-preflight", "torch-preflight", "check", "--format", "json"), _read_preflight, "0.5.0",
        of_script=False,
    ),
    Tool(
        "pytest-torch", "contract and training checks of its suites, on the first batch", "pytest-torch==1.1.1",
        _adapted("pytest-torch"), _read_adapted, "1.1.1",
    ),
    Tool(
        "torchtest2", "check_model() on the first batch", "torchtest2==0.1.0",
        _adapted("torchtest2"), _read_adapted, "0.1.0",
    ),
    Tool(
        "guardtower", "audit() on the first batch", "guardtower==0.1.0",
        _adapted("guardtower"), _read_adapted, "0.1.0",
    ),
    Tool("mldoct", "`mldoctor check SCRIPT`", "mldoct==1.0.0", _mldoct, _read_mldoct, "1.0.0", of_script=False),
    Tool("anomaly", "torch.autograd.detect_anomaly around the script", "", _adapted("anomaly"), _read_adapted, "torch"),
    Tool(
        "ruff", "`ruff check --isolated SCRIPT`: a floor", "",
        _python("ruff", "check", "--isolated", "--output-format", "json", "--exit-zero"), _read_ruff,
        "of this environment", of_script=False,
    ),
    Tool(
        "mypy", "`mypy SCRIPT`, imports not followed: a floor", "",
        _python(
            "mypy", "--config-file=", "--follow-imports=skip", "--ignore-missing-imports",
            f"--cache-dir={ENVIRONMENTS / 'mypy'}",
        ),
        _read_mypy, "of this environment", of_script=False,
    ),
)  # fmt: skip
NOT_RUN = {
    "TrainCheck 0.2.0": "it can be installed, takes its rules from traces of correct runs, of the same program or of "
    "others, and brings none along: without a choice of such runs, which would be ours, it has no verdict",
}
