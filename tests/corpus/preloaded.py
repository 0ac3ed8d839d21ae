"""Runs commands in forks of one process that has imported torch and its compiler, which takes seconds each time.

Reads one JSON object a line from the standard input, {arguments, folder, stdout, cpu, wall}, and answers with one:
{code, seconds, mebibytes}. The arguments are those of adapters.py, or of `rislab`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


def main() -> None:
    """Answer until the input ends."""
    for name in ("torch", "torch._dynamo", "torch.utils.data", "torch.optim.swa_utils", *sys.argv[1:]):
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(order)
        print(json.dumps(wait(pid, order["wall"])), flush=True)


def _child(order: dict[str, Any]) -> NoReturn:
    os.setsid()
    os.chdir(order["folder"])
    resource.setrlimit(resource.RLIMIT_CPU, (order["cpu"], order["cpu"] + 2))
    for path, number in ((os.devnull, 0), (order["stdout"], 1), (os.devnull, 2)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
    sys.argv = ["", *order["arguments"]]
    code = 1
    try:
        if order["arguments"][0] == "checkup":
            code = importlib.import_module("rislab.cli.main").main()
        else:
            sys.path.insert(0, str(Path(__file__).parent))
            importlib.import_module("adapters").main()
            code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int, wall: float) -> dict[str, float]:
    """Exit code, seconds and mebibytes of a child; one that is too late is ended with its children."""
    end = time.monotonic() + wall
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            return {
                "code": os.waitstatus_to_exitcode(status),
                "seconds": used.ru_utime + used.ru_stime,
                "mebibytes": used.ru_maxrss / 1024,
            }
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
