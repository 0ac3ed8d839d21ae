"""A page of JupyterLab that is loaded again while its kernel is slow shows its panels all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import command, opened, shoot

pytestmark = pytest.mark.process
CELLS = ("import rislab\nlesson = rislab.panels.lesson('start')", "lesson.predict('one indent')")
# A view looks for its model, sleeps for a tenth of a second, and looks again. Its first sleep lasts so long here that
# the models come meanwhile; a busy page does the same to the last of its sleeps.
HELD = """
const real = window.setTimeout;
window.setTimeout = (call, milliseconds, ...rest) => {
  const looks = milliseconds === 100 && new Error().stack.includes("get_model");
  return real(call, looks ? Number(localStorage.hold) : milliseconds, ...rest);
};
"""


def test_a_view_that_jupyterlab_gave_up_is_shown_again(browser: Any, tmp_path: Path) -> None:
    said: list[str] = []
    with opened(browser, tmp_path, CELLS) as page:
        page.on("console", lambda message: said.append(message.text))
        command(page, "notebook:run-all-cells")
        page.wait_for_selector(".rislab-panel")
        page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
        page.add_init_script(HELD)
        for hold in (5_000, 10_000, 20_000, 40_000):  # on a slow machine the models take their time
            page.evaluate("(hold) => { localStorage.hold = hold; }", hold)
            page.reload()
            page.wait_for_selector(".rislab-panel")
            if any("widget model not found" in text for text in said):
                break
        assert any("widget model not found" in text for text in said)
        assert page.locator(".rislab-panel").count() == 1
        assert page.get_by_text("Error displaying widget").count() == 0
        # It answers.
        page.get_by_label("no, it rises").click()
        page.get_by_role("button", name="Lock my answer").click()
        page.wait_for_selector("text=Not so")
        shoot(page, "shown-again")
