"""The table of `%%checkup` in a real JupyterLab: it can be read in both themes, and is known to a screen reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import command, opened, shoot
from tests.browser.test_accessibility import TEXTS, contrast
from tests.checkup.test_notebook import SETUP

pytestmark = pytest.mark.process
CELLS = ("%load_ext rislab", SETUP, "%%checkup --accumulation-steps 4\nlast = train(divisor=16)")
TABLE = "table:has(> caption)"


def test_the_table_can_be_read_in_both_themes(browser: Any, tmp_path: Path) -> None:
    with opened(browser, tmp_path, CELLS) as page:
        command(page, "notebook:run-all-cells")
        page.wait_for_selector(TABLE)
        for theme in ("Light", "Dark"):
            command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
            page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
            page.wait_for_timeout(1000)
            shoot(page, f"checkup-{theme.lower()}")
            page.evaluate("table => document.querySelector(table).id = 'watched'", TABLE)
            texts = page.evaluate(
                TEXTS.replace("document.body, NodeFilter", "document.querySelector('#watched'), NodeFilter")
            )
            assert "Found 1 fault." in [text for text, *_ in texts] and len(texts) > 10
            assert [text for text in texts if contrast(text[1], text[2]) < 4.5] == []
        # By their roles, as a screen reader finds them.
        table = page.get_by_role("table", name="Found 1 fault.")
        titles = table.get_by_role("columnheader").all_text_contents()
        assert titles[:4] == ["severity", "code", "what", "numbers"] and all(titles)
        assert table.get_by_role("rowheader").all_text_contents() == ["divided twice"]
        assert page.get_by_role("region", name="findings").is_visible()
