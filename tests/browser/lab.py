"""A real JupyterLab with a notebook open in a real browser, for the end-to-end test and the panel benchmarks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from tests.browser.chromium import sync_api
from tests.forks import forking

NOTEBOOK = "window.jupyterapp?.shell.currentWidget"
KERNEL = f"{NOTEBOOK}?.sessionContext?.session?.kernel"
# What the page shows: prompts of the cells, titles and places of the plots, scenes, how far it is scrolled, errors.
PRESENT = """(() => {
  const texts = (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent.trim());
  const plots = [...document.querySelectorAll(".js-plotly-plot")].map((plot) => {
    const { top, bottom } = plot.getBoundingClientRect();
    return { title: plot.layout?.title?.text, top: Math.round(top), bottom: Math.round(bottom) };
  });
  return JSON.stringify({
    cells: texts(".jp-InputArea-prompt"), plots,
    scenes: [...document.querySelectorAll(".rislab-scene")].map((one) => one.dataset.state),
    scrolled: document.querySelector(".jp-WindowedPanel-outer")?.scrollTop, height: innerHeight,
    kernel: KERNEL?.status, visible: document.visibilityState,
    status: texts("[role=status], [role=alert]").filter(Boolean),
    errors: texts("[data-mime-type='application/vnd.jupyter.error']"),
  });
})()""".replace("KERNEL", KERNEL)
SHOTS = Path(__file__).resolve().parents[2] / "reports" / "out"


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@contextmanager
def opened(browser: Any, folder: Path, cells: Sequence[str], width: int = 1280, height: int = 800) -> Iterator[Any]:
    """The page of a JupyterLab on `folder`/root that shows a notebook with these cells, none of them run yet."""
    root = folder / "root"
    root.mkdir()
    write_notebook(root / "panels.ipynb", cells)
    with _served(folder, root) as address:
        context = browser.new_context(viewport={"width": width, "height": height})
        page = context.new_page()
        page.set_default_timeout(180_000)
        # Shown by pytest where a test fails.
        page.on("pageerror", lambda error: print(f"page: {error}"))
        page.on("console", lambda message: print(f"console: {message.text}") if message.type == "error" else None)
        for _ in range(120):
            try:
                page.goto(f"{address}/lab/tree/panels.ipynb?token=lab")
                break
            except sync_api.Error:
                time.sleep(0.5)
        settle(page)
        yield page
        context.close()


@contextmanager
def _served(folder: Path, root: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    quiet = folder / "CONFIG" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    # The user's own folders must not hide the extensions and kernels of this environment.
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--IdentityProvider.token=lab", "--LabApp.expose_app_in_browser=True"]
    command += [f"--ServerApp.root_dir={root}", "--LabApp.news_url=None"]
    # A server that is a fork was imported under other variables, and its defaults are of that time.
    lab = folder / "CONFIG" / "lab"
    command += [f"--LabApp.user_settings_dir={lab / 'user-settings'}", f"--LabApp.workspaces_dir={lab / 'workspaces'}"]
    live = {**os.environ, **folders, "RISLAB_LIVE": "1"}
    with (folder / "server.log").open("w") as log, forking():
        server = subprocess.Popen(command, env=live, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def settle(page: Any) -> None:
    """Wait until the notebook is open and its kernel has answered, and runs no cell."""
    page.wait_for_function("window.jupyterapp?.commands.hasCommand('notebook:run-all-cells')")
    until(page, f"{NOTEBOOK}?.content?.model?.cells.length && {NOTEBOOK}.sessionContext.isReady")
    until(page, f"{KERNEL}?.status === 'idle' && {KERNEL}.connectionStatus === 'connected'")
    # A request that arrives while ipykernel 7.1 to 7.3 sends a reply may never be read (panels/unread_messages.py): the
    # page has just asked several things, and a cell that were run now could stay at [*] for ever.
    page.wait_for_timeout(1000)


def command(page: Any, name: str, **options: Any) -> None:
    """Begin a command of JupyterLab; running cells ends only when the last of them has, so nothing is waited for."""
    page.evaluate("([name, options]) => void window.jupyterapp.commands.execute(name, options)", [name, options])


def until(page: Any, condition: str) -> None:
    """Wait until JavaScript becomes true; raises AssertionError with what the page shows where it never does."""
    try:
        page.wait_for_function(condition)
    except sync_api.TimeoutError as error:
        raise AssertionError(f"{condition} never came true; the page: {page.evaluate(PRESENT)}") from error


def press(page: Any, name: str, condition: str = "true") -> None:
    """Click the first button of a panel that carries this name, and wait until JavaScript becomes true."""
    page.locator("button.jupyter-button", has_text=name).first.click()
    until(page, condition)


def box(page: Any, label: str) -> Any:
    """The number box, or the drop-down list, beside a label."""
    beside = f"//label[normalize-space(.)='{label}']/following-sibling::*[self::input or self::select]"
    return page.locator(f"xpath={beside}").first


def shoot(page: Any, name: str) -> None:
    """Keep a screenshot in reports/out."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"lab-{name}.png"))
