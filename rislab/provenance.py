"""What a run ran on: versions, commit, processor, cores; looked up when it is asked for."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("rislab", "torch", "numpy", "jupyterlab", "ipywidgets", "plotly", "anywidget", "papermill")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Version of Python and of each package; "not installed" for one that is missing."""
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def commit(folder: Path | None = None) -> str:
    """Commit of a checkout, with "+changes" if files differ from it, or "not a checkout".

    Args:
        folder: in the checkout; None is the folder of the package.
    """
    where = folder or Path(__file__).resolve().parent
    try:
        head = _git(where, "rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git(where, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"


def processor() -> str:
    """Name of the processor and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {cores()} cores"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Intra-op threads for a notebook: RISLAB_THREADS if it is set to a number, else all cores but one."""
    wanted = os.environ.get("RISLAB_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else max(1, cores() - 1)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
