"""Chromium and Playwright for the tests that need a page; without them these tests are skipped, and say why."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]
PATIENCE = 180_000  # milliseconds; a machine may be slow, and shared

# Texts that lie upon each other, or are cut off.
OVERLAPS = """(root) => {
  const texts = [...root.querySelectorAll("svg text, label, th, td, legend, .title span, output, button")];
  const boxes = texts.filter((node) => node.textContent.trim() && node.checkVisibility() && !node.querySelector("span"))
    .map((node) => {
      const range = document.createRange();
      range.selectNodeContents(node);
      return [range.getBoundingClientRect(), node];
    });
  const found = [];
  boxes.forEach(([a, one], i) => boxes.slice(i + 1).forEach(([b, other]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1.5 && down > 2.5) found.push(`${one.textContent} | ${other.textContent}`);
  }));
  const outer = root.getBoundingClientRect();
  for (const [a, one] of boxes)
    if (a.right > outer.right + 1 || a.left < outer.left - 1) found.push(`cut: ${one.textContent}`);
  return found;
}"""


def _patient(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(**options: Any) -> Any:
        one = make(**options)
        one.set_default_timeout(PATIENCE)
        return one

    return made


@contextmanager
def launched() -> Iterator[Any]:
    """A browser of its own. Meanwhile this thread has a running event loop, in which asyncio.run() is not possible."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        for name in ("new_context", "new_page"):
            setattr(browser, name, _patient(getattr(browser, name)))
        yield browser
        browser.close()
