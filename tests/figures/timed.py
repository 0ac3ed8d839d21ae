"""Run a command and note for `make figures` how long it took: `python -m tests.figures.timed NAME COMMAND…`."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time

from rislab import files, provenance
from tests.figures.measure import TIMED


def main(name: str, *command: str) -> int:
    """Run the command; its time is noted if it ends with 0.

    Args:
        name: of the row.
        command: words.

    Returns:
        Its exit code.
    """
    began, began_at, used_before = time.monotonic(), time.time(), os.times()
    try:
        code = subprocess.run(command).returncode
    except KeyboardInterrupt:
        return 130
    used = os.times()
    if code == 0:
        rows = json.loads(TIMED.read_text(encoding="utf-8")) if TIMED.exists() else {}
        where = {
            "commit": provenance.commit()[:12],
            "machine": provenance.processor(),
            "date": f"{datetime.date.today()}",
        }
        rows[name] = {
            "seconds": time.monotonic() - began,
            "minutes": (time.monotonic() - began) / 60,
            "processor minutes": (sum(used[:4]) - sum(used_before[:4])) / 60,
            **where,
        }
        # Reports that the command wrote.
        pages = [page for path in TIMED.parent.glob("*.html") if (page := path.stat()).st_mtime >= began_at]
        if pages:
            rows[f"largest page of {name}"] = {"megabytes": max(page.st_size for page in pages) / 1e6, **where}
        TIMED.parent.mkdir(parents=True, exist_ok=True)
        files.replace(TIMED, (json.dumps(rows, indent=1, sort_keys=True) + "\n").encode())
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
