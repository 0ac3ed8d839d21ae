"""Servers: the way in, and working copies."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rislab.reports import notebooks, servers


def test_the_address_has_the_token_and_a_free_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_TOKEN", "known")
    monkeypatch.setenv("SSH_CONNECTION", "1 2 3 4")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = servers.lab_command(tmp_path, port=port, browser=False)
    found = urlsplit(server.address)
    assert found.query == "token=known" and port < (found.port or 0) < port + 50
    assert f"--ServerApp.port={found.port}" in server.command
    assert server.address in servers.way_in(server)
    assert f"ssh -L {found.port}:127.0.0.1:{found.port} " in servers.way_in(server)


def test_a_copy_follows_its_original_unless_somebody_changed_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    originals, copies = tmp_path / "notebooks", tmp_path / "work"
    originals.mkdir()
    monkeypatch.setattr(notebooks, "available", lambda: {"a": originals / "a.ipynb"})

    def notebook(source: str, *outputs: str) -> str:
        cell = {"cell_type": "code", "id": "x", "metadata": {}, "source": [source], "outputs": [*outputs]}
        return json.dumps(
            {"cells": [cell | {"execution_count": None}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        )

    for name in ("a", "b"):
        (originals / f"{name}.ipynb").write_text(notebook("1"))
    assert servers.working_copy(copies) == (["a.ipynb", "b.ipynb"], [])
    assert servers.working_copy(copies) == ([], ["a.ipynb", "b.ipynb"])
    (copies / "a.ipynb").write_text(notebook("1", "ran"))
    (copies / "b.ipynb").write_text(notebook("mine"))
    assert servers.working_copy(copies) == ([], ["a.ipynb", "b.ipynb"])
    for name in ("a", "b"):
        (originals / f"{name}.ipynb").write_text(notebook("2"))
    assert servers.working_copy(copies) == (["a.ipynb"], ["b.ipynb"])
    assert (copies / "a.ipynb").read_text() == notebook("2") and "mine" in (copies / "b.ipynb").read_text()


def test_links_of_a_copy_lead_to_files_that_were_copied_with_it(tmp_path: Path) -> None:
    assert len(servers.working_copy(tmp_path / "new" / "work")[0]) > 10
    pages = [*(tmp_path / "new" / "work").glob("*.ipynb"), *(tmp_path / "new" / "work").glob("*.md")]
    links = {(page, link) for page in pages for link in re.findall(r"\]\(([^():]+)\)", page.read_text())}
    assert {link for _, link in links} >= {"conventions.md", "conventions.svg"}
    assert [link for page, link in links if not (page.parent / link).is_file()] == []
    # A page that is newer comes too, and one that was changed stays.
    page = tmp_path / "new" / "work" / "conventions.md"
    original = page.parent / servers.ORIGINALS / page.name
    for each in (page, original):
        each.write_text("older")
    assert servers.working_copy(page.parent)[0] == ["conventions.md"]
    page.write_text("mine")
    original.write_text("older")
    assert servers.working_copy(page.parent)[0] == [] and page.read_text() == "mine"


@pytest.mark.parametrize("name", ["start", "overfit", "precision", "fault_clinic", "music"])
def test_a_page_without_code_says_nothing_of_cells_to_be_run(name: str) -> None:
    assert "Run All" not in servers.page_of(name)
