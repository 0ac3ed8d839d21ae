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
from rislab.checkup.process_watch import ProcessWatch, StopWatching
from rislab.checkup.windows import Declared
from rislab.errors import InputError

# Ways in which a run may end.
TO_ITS_END, STOPPED, INTERRUPTED = "ran to its end", "was stopped", "was interrupted"


@dataclass(frozen=True)
class ScriptRun:
    """What a watched script did.

    Args:
        script: its path.
        steps: taken, by all optimisers.
        optimisers: that were watched, each with its networks.
        ended: how, in words.
        failed: whether it ended with an error.
        findings: what is wrong with its loops.
    """

    script: str
    steps: int
    optimisers: list[str]
    ended: str
    failed: bool
    findings: Findings

    @property
    def trained(self) -> bool:
        """Whether the script trained anything that the checkup can say something about."""
        return bool(self.steps) or bool(self.findings)

    def exit_code(self) -> int:
        """0 clean, 1 faults, 2 could not run."""
        if self.failed or not self.trained:
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
        path: of the script.
        arguments: of the script.
        steps: stop after so many of one optimiser; None runs to the end.
        every: n ≥ 1; take the gradients of each n-th window.
        declared: what its loops are meant to do; None if nothing is declared.

    Raises:
        InputError: for a path that is no file.
    """
    script = Path(path)
    if not script.is_file():
        raise InputError(f"SCRIPT is {str(path)!r}; allowed: the path of a Python file")
    process = os.getpid()
    ended, failed = TO_ITS_END, False
    with ProcessWatch(steps, every=every, declared=declared) as watch, _as_main(script, arguments):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except StopWatching:
            ended = STOPPED
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
    labels = [tracked.label() for tracked in watch.tracked]
    return ScriptRun(str(script), watch.steps, labels, ended, failed, watch.findings())


@contextlib.contextmanager
def _as_main(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Give a script what it expects in sys."""
    argv, path = sys.argv, sys.path
    sys.argv, sys.path = [str(script), *arguments], [str(script.resolve().parent), *sys.path]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path
