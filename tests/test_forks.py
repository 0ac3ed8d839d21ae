"""Processes that are forked in place of started: to a test they are as those of subprocess."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import Forked, forking

pytestmark = pytest.mark.process
# What a process says of itself, then how it ends.
SAYS = """
import os, sys
print(os.getcwd(), os.environ["WORD"], sys.argv[1:], sys.stdin.read(), "torch._dynamo" in sys.modules, flush=True)
print("aside", file=sys.stderr)
"""
ENDS = {
    "": 0,
    "sys.exit(3)": 3,
    "sys.exit('in words')": 1,
    "1 / 0": 1,
    "os._exit(7)": 7,
    "os.kill(os.getpid(), 9)": -signal.SIGKILL,
    "import atexit; atexit.register(print, 'at the end')": 0,
    "from concurrent.futures import ThreadPoolExecutor; ThreadPoolExecutor(1).submit(print, 'in a pool')": 0,
}


@pytest.mark.parametrize("how", ENDS)
def test_a_fork_is_as_a_process_that_is_started(how: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SAYS + how)
    for words in (["-c", SAYS + how, "x"], ["script.py", "x"]):
        outcomes = []
        for start in (subprocess.Popen, Forked):
            process = start(
                [sys.executable, *words], cwd=tmp_path, env={**os.environ, "WORD": "ä"}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            said, aside = process.communicate("given", timeout=300)
            forked = str(start is Forked)
            assert said.startswith(f"{tmp_path} ä ['x'] given {forked}\n")
            last = aside.splitlines()[-1]
            outcomes.append((process.returncode, said.replace(forked, ""), last))
        assert outcomes[0] == outcomes[1] and outcomes[1][0] == ENDS[how]


def test_a_fork_is_waited_for_and_ended_as_any_other() -> None:
    with forking():
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        assert isinstance(process, Forked) and process.poll() is None and os.getpgid(process.pid) == process.pid
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.terminate()
        assert process.wait(300) == -signal.SIGTERM == process.poll()
        # What is no plain Python is started as ever.
        assert subprocess.run(["true"], check=True).returncode == 0
        fresh = [sys.executable, "-S", "-c", "import sys; sys.exit('torch' in sys.modules)"]
        assert subprocess.run(fresh, check=True).returncode == 0
