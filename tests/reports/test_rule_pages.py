"""Pages of the rules: what the registry says, both loops, and what the checkup said when the page was written."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from rislab.checkup.rules import RULES
from rislab.cli.main import main
from rislab.faults.catalogue import find_fault
from rislab.reports import rule_pages


@pytest.mark.slow
def test_a_page_for_each_rule_and_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {code: RULES[code] for code in ("C1", "C2", "P3")}
    monkeypatch.setattr(rule_pages, "RULES", shown)
    assert main(["explain", "--out", str(tmp_path / "rules")]) == 0
    assert capsys.readouterr().out == f"C1 C2 P3 {tmp_path / 'rules' / 'index.html'}\n"
    assert {path.stem for path in (tmp_path / "rules").iterdir()} == {*shown, "index"}
    index = (tmp_path / "rules" / "index.html").read_text()
    assert re.findall(r'<a href="(\w+)\.html">', index) == list(shown)
    for code, rule in shown.items():
        page = unescape((tmp_path / "rules" / f"{code}.html").read_text())
        for part in (rule.name, rule.what, rule.why, rule.needs, rule.reference, *rule.fixes, *rule.fixes.values()):
            assert part in page
        assert 'class="right"' in page and "Of the right one: All checks passed." in page
        assert ('<th scope="row">backwards</th>' in page) is ('<svg class="rule"' in page) is code.startswith("C")
        assert f"FAULT   {code} " in page and f"--ignore {code}," in page
    assert find_fault("never divided").reference in (tmp_path / "rules" / "C1.html").read_text()
    assert "α = 4" in (tmp_path / "rules" / "C1.html").read_text()
    assert 'href="C1.html">← C1' in (tmp_path / "rules" / "C2.html").read_text()
