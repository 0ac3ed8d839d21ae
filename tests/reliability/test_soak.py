"""A panel left alone for hours, in minutes: it neither grows nor floods its page. `make soak` gives it ten."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rislab import panels
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.run_folder import read_records
from tests.panels.test_training_panel import plot_of

# On a slow machine it goes on, until curves are long enough to be thinned.
WINDOWS = 1000
SECONDS = 600.0 if os.environ.get("RISLAB_SOAK") == "1" else 5.0


def resident() -> float:
    """MiB of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def size(figure: dict[str, Any]) -> int:
    """Bytes of a figure as it is sent: numbers in binary, the rest as JSON."""
    return len(json.dumps(figure, default=lambda numbers: " " * memoryview(numbers).nbytes))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 1800)
def test_a_panel_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    config = OverfitConfig(scenes=64, micro_batch=16, accumulation_steps=1, epochs=10**6)
    panel = panels.overfit(config)
    plot = plot_of(panel)
    sent: list[tuple[float, int]] = []

    def page(change: dict[str, Any]) -> None:
        """A page that draws at once."""
        sent.append((time.monotonic(), size(plot.figure)))
        plot.state.set_state({"drawn": change["new"]["number"]})

    plot.state.observe(page, "patch")
    began = time.monotonic()
    seen: list[tuple[int, float]] = []
    while time.monotonic() - began < SECONDS or panel.runs[0].history.windows < WINDOWS:
        time.sleep(SECONDS / 60)
        seen.append((panel.runs[0].history.windows, resident()))
    panel.stop()
    while panel.state == "running":
        time.sleep(0.05)
    assert panel.error is None and panel.drawing_error is None
    # After a third, everything that is made once has been made.
    (first, before), (last, after) = seen[len(seen) // 3], seen[-1]
    windows, grown = last - first, after - before
    print(
        f"{SECONDS:.0f} s: {before:.0f} MiB at window {first}, {after:.0f} MiB at window {last}; {len(sent)} drawings"
    )
    # Curves keep some fifteen numbers of a window, 120 bytes; 8 MiB are what an allocator may hold back.
    assert grown < 8 + 400 * windows / 2**20, f"{grown:.1f} MiB in {windows} windows"
    assert len(sent) <= 10 * (sent[-1][0] - began)
    # Curves are thinned, so the last figure is no larger than one of any long run.
    half = (began + sent[-1][0]) / 2
    thick = [bytes_ for at, bytes_ in sent if at > half]
    assert thick and max(thick) < 400_000 and thick[-1] < 1.5 * thick[0]
    folder = panel.runs[0].folder
    assert folder is not None and len(read_records(folder)) >= last
