"""Pages without code: the runs of one go into a folder whose key stands in its address, so that a reload finds them."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from urllib.parse import parse_qs

KEY = "page"  # of the query in the address
# 32 hexadecimal digits, which nobody guesses: whoever knows them sees the runs.
SET_ADDRESS = """<script>{{
  const address = new URL(location);
  address.searchParams.set("{name}", "{key}");
  history.replaceState(null, "", address);
}}</script>"""


def page_folder(parent: Path) -> Path | None:
    """The folder of the page that this kernel is for; a new page gets one, and an address by which it is found again.

    Args:
        parent: of the folders of all pages.

    Returns:
        The folder, which may not exist yet; None where Voilà does not serve this notebook.
    """
    if not os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):
        return None
    key = parse_qs(os.environ.get("QUERY_STRING", "")).get(KEY, [""])[0]
    if not re.fullmatch(r"[0-9a-f]{32}", key):
        from IPython.display import HTML, display

        key = secrets.token_hex(16)
        display(HTML(SET_ADDRESS.format(name=KEY, key=key)))
    return parent / key
