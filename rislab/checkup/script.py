"""A training script, run as it stands and watched."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rislab.checkup.findings import Findings
from rislab.checkup.gradient_rules import Declared
from rislab.checkup.process_watch import ProcessWatch, StopWatching
from rislab.errors import InputError

# Ways in which a run may end.
WHOLE, ENOUGH, INTERRUPTED = "ran to its end", "was stopped", "was interrupted"


@dataclass(frozen=True)
class ScriptRun:
    """What a watched script did.

    Args:
        script: its path. steps: taken, by all optimisers. optimisers: what was watched.
        ended: how. failed: whether it ended with an error. findings: what is wrong.
    """

    script: str
    steps: int
    optimisers: list[str]
    ended: str
    failed: bool
    findings: Findings

    @property
    def judged(self) -> bool:
        """Whether the script trained anything that could be judged."""
        return bool(self.steps) or bool(self.findings)

    def exit_code(self) -> int:
        """0 clean, 1 faults, 2 could not run."""
        if self.failed or not self.judged:
            return 2
        return 1 if self.findings.faults else 0


def run_script(
    path: Path | str,
    arguments: Sequence[str] = (),
    *,
    steps: int | None = None,
    every: int = 1,
    declared: Declared | None = None,
) -> ScriptRun:
    """Run a script under a ProcessWatch, as `python SCRIPT ARGUMENTS` would.

    Args:
        path: of the script. arguments: its own. steps: stop after so many of one optimiser; None runs to the end.
        every: take gradients of each n-th window. declared: see Declared.

    Raises:
        InputError: for a path that is no file.
    """
    script = Path(path)
    if not script.is_file():
        raise InputError(f"SCRIPT is {str(path)!r}; allowed: the path of a Python file")
    process = os.getpid()
    ended, failed = WHOLE, False
    with ProcessWatch(steps, every=every, declared=declared) as seen, _as_main(script, arguments):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except StopWatching:
            ended = ENOUGH
        except KeyboardInterrupt:
            ended, failed = INTERRUPTED, True
        except SystemExit as leaving:
            if leaving.code not in (None, 0):
                ended, failed = f"left with exit code {leaving.code}", True
        # Whatever a stranger's code may raise ends its run, and not the checkup of what came before.
        except Exception as error:
            ended, failed = f"crashed: {type(error).__name__}: {error}", True
        if os.getpid() != process:
            # A fork of the script that has come to the end of it; its parent gives the account.
            os._exit(1 if failed else 0)
    labels = [party.label() for party in seen.parties]
    return ScriptRun(str(script), seen.steps, labels, ended, failed, seen.findings())


@contextlib.contextmanager
def _as_main(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    """What a script finds in sys."""
    argv, path = sys.argv, sys.path
    sys.argv, sys.path = [str(script), *arguments], [str(script.resolve().parent), *sys.path]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path
