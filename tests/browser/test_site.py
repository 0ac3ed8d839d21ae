"""Pages of the documentation as a browser shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docs.site.build import STATIC
from docs.site.page import SECTIONS, Page

BODY = """<pre><code>a command</code></pre><p>what it does</p>
<table><tr><td>n</td><td><code>noise_power_of_all</code></td><td>power of the noise</td></tr></table>"""


def test_text_stands_clear_of_a_command_and_a_name_is_not_broken(browser: Any, tmp_path: Path) -> None:
    page_of = {section: Page(f"{section}.html", "a page", section, BODY) for section in SECTIONS}
    (tmp_path / "assets").mkdir()
    for name in ("site.css", "site.js"):
        (tmp_path / "assets" / name).write_bytes((STATIC / name).read_bytes())
    (tmp_path / "index.html").write_text(page_of["howto"].html([*page_of.values()]), encoding="utf-8")
    page = browser.new_page(viewport={"width": 420, "height": 800})
    page.goto((tmp_path / "index.html").as_uri())
    above, text = (page.locator(f"main {tag}").first.bounding_box() for tag in ("pre", "p"))
    assert text["y"] - above["y"] - above["height"] >= 8
    assert page.evaluate("document.querySelector('td code').getClientRects().length") == 1
    page.close()
