"""The static path: where widgets cannot render, panels say why, and the same cells run to the end."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from rislab import panels
from rislab.sanity import OverfitConfig, PrecisionConfig


@pytest.mark.parametrize("missing", ["anywidget", "ipywidgets", "plotly"])
def test_a_missing_package_is_named_and_panels_are_static(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == missing else find(name, *rest)

    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert not panels.is_live()
    assert f"{missing} not installed; figures are static" in capsys.readouterr().out


def test_a_package_that_cannot_be_imported_is_named_and_panels_are_static(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "anywidget.py").write_text("raise AttributeError('traitlets is too old')")
    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "anywidget", raising=False)
    assert not panels.is_live()
    printed = capsys.readouterr().out
    assert "anywidget cannot be imported (AttributeError: traitlets is too old); figures are static" in printed


@pytest.mark.slow
def test_without_anywidget_the_same_cells_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "anywidget" else find(name))
    monkeypatch.setitem(sys.modules, "anywidget", None)
    for name in [name for name in sys.modules if name.startswith("rislab.panels.plot_widget")]:
        monkeypatch.delitem(sys.modules, name)

    async def result(panel: Any) -> Any:
        return await panel

    records = asyncio.run(result(panels.overfit(OverfitConfig(scenes=64, epochs=2), folder=None)))
    assert len(records) == 4
    small = PrecisionConfig(windows=2, modes=("fp32",), accumulation_steps=(1,))
    assert len(asyncio.run(result(panels.precision(small)))) == 1
    assert panels.music() is not None and panels.quiz(1, 1) is not None
