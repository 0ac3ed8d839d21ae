"""Write reports/figures.md: `python -m tests.figures [--benchmarks FILE]`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rislab import files
from tests.figures.measure import ROOT, Benchmarks, measure_here
from tests.figures.table import asked, figures_page

BENCHMARKS = ROOT / "reports" / "benchmarks.json"

parser = argparse.ArgumentParser()
parser.add_argument("--benchmarks", type=Path, default=ROOT / "reports" / "out" / "benchmarks.json", metavar="FILE")
parser.add_argument("--out", type=Path, default=ROOT / "reports" / "figures.md", metavar="FILE")
options = parser.parse_args()
known = Benchmarks.of_file(BENCHMARKS)
# Benchmarks that were run anew replace their older values.
known.take(options.benchmarks)
files.replace(BENCHMARKS, (json.dumps(known.rows, indent=1, sort_keys=True) + "\n").encode())
page = figures_page(asked(), known, measure_here())
files.replace(options.out, page.encode())
print(options.out, page.splitlines()[4], sep="\n")
