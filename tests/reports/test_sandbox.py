"""Code of hand-ins: right is right, and whatever else it does ends as a sentence, without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from rislab.faults.lessons import lessons
from rislab.reports.sandbox import Job, run_jobs

HEAD = "def weights(sizes):\n"


@pytest.mark.process
def test_what_code_does_ends_as_a_sentence(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    bodies = {
        "while True: pass": "stopped, it took more than 3 s",
        f"import os; os.system('touch {trap}')": "os.system is not allowed",
        f"import subprocess; subprocess.run(['touch', '{trap}'])": "subprocess.Popen is not allowed",
        f"open('{trap}', 'w')": "writing a file is not allowed",
        "import socket; socket.create_connection(('127.0.0.1', 22))": "is not allowed",
        "return 'x' * 10**11": "MemoryError",
        "import time; time.sleep(99)": "or waited for nothing",
        # What Python's own hook does not see, the kernel refuses.
        f"import torch; torch.save(1, '{trap}')": "Operation not permitted",
        f"from multiprocessing import util; util.spawnv_passfds(b'/bin/touch', [b'touch', b'{trap}'], [])": "permitted",
        "import signal; signal.raise_signal(9)": "Operation not permitted",
        "import ctypes, os; ctypes.pythonapi.kill(os.getppid(), 9)": "ctypes.dlsym is not allowed",
        "import rislab, pathlib; (pathlib.Path(rislab.__file__).parent / 'faults/lessons.yaml').read_text()": "reading",
        "from rislab import faults": "does without rislab.faults",
        "import sys; sys.modules['rislab.' + 'faults.code_checks']": "KeyError",
        "import os; os._exit(0)": "ended before it was judged",
        "raise SystemExit": "raised SystemExit",
        "return 1 / 0": "ZeroDivisionError: division by zero (line 2 of the cell)",
        "print('right' * 10**6)": "returned None",
        "from rislab.faults.lessons import lessons": "does without rislab.faults",
    }
    jobs = [Job("weights", (), f"{HEAD}    {body}\n") for body in bodies]
    jobs += [Job("weights", (), "def weights(:"), Job("weights", (), "weight = 1")]
    sentences = [*bodies.values(), "the cell raised SyntaxError", "there is no function weights"]
    jobs += [Job("halving", (), "class Same(set):\n    __eq__ = lambda *_: True\ndef survivors(scores): return Same()")]
    sentences.append("survivors() returned Same()")
    solved = [Job("weights", ("import nowhere", "import torch"), lessons().exercises["weights"].solution)]
    solved += [Job("from nothing", (), lessons().exercises["from nothing"].solution)]
    *outcomes, value, loop = run_jobs([*jobs, *solved], seconds=3)
    for outcome, sentence in zip(outcomes, sentences, strict=True):
        assert outcome.right is False and sentence in outcome.text and "\n" not in outcome.text, outcome
    assert value.right and loop.right, (value, loop)
    assert not trap.exists()
