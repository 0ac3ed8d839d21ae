"""The folder of a page without code, and the address by which a reload finds it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import IPython.display
import pytest

from rislab.panels.page import page_folder

KEY = "0123456789abcdef" * 2


@pytest.mark.parametrize("query", ["", "page=", "page=../../etc", f"page={KEY}0", f"page={KEY.upper()}", "theme=dark"])
def test_a_page_without_a_key_gets_one_in_its_address(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    monkeypatch.setenv("QUERY_STRING", query)
    assert page_folder(Path("runs")) is None
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    folder, other = page_folder(Path("runs")), page_folder(Path("runs"))
    assert folder is not None and folder != other and re.fullmatch(r"runs/[0-9a-f]{32}", str(folder))
    assert folder.name in shown[0].data and KEY not in shown[0].data
    monkeypatch.setenv("QUERY_STRING", f"{query.partition('page')[0]}&page={folder.name}")
    assert page_folder(Path("runs")) == folder and len(shown) == 2
