"""Build the site: `python -m docs.site FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from docs.site.build import broken_links, build

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "reports/out/docs")
index = build(folder)
problems = broken_links(folder)
print(*problems, index, sep="\n")
sys.exit(1 if problems else 0)
