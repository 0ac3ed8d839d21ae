"""Reports side by side: what an error, or Ctrl-C, does to the processes that work and to those that wait."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rislab.errors import InputError
from rislab.reports.processes import in_processes

pytestmark = pytest.mark.process


def work(task: tuple[str, str]) -> str:
    """Do what the task says; a long one leaves a file where it is interrupted."""
    kind, place = task
    if kind == "fails":
        while not Path(place).exists():
            time.sleep(0.01)
        time.sleep(0.2)  # the other process waits by now, or works
        raise InputError("it fails")
    Path(place).touch()
    if kind == "long":
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            Path(f"{place} interrupted").touch()
            raise
    return kind


@pytest.mark.parametrize("other", ["quick", "long"])
def test_an_error_ends_all_processes_without_a_word_of_theirs(
    other: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "begun")
    with pytest.raises(InputError, match="it fails"):
        list(in_processes(work, [(other, place), ("fails", place)], 2))
    assert (tmp_path / "begun interrupted").exists() == (other == "long")
    assert capfd.readouterr().err == ""
