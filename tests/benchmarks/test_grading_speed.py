"""A class of thirty hand-ins, each all notebooks with every answer filled in, graded without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell

from rislab.faults.exercises import EXERCISES
from rislab.reports import grading, notebooks
from tests.benchmarks.common import seconds

STUDENTS = 30


def test_thirty_hand_ins(benchmark: Any, tmp_path: Path) -> None:
    answers = [
        new_code_cell(
            f"{one.solution}\nlesson.check({name!r}, {one.function})"
            if one.function
            else f"answer = 1\nlesson.check({name!r}, answer)"
        )
        for name, one in EXERCISES.items()
    ]
    files = notebooks.available()
    for student in range(STUDENTS):
        folder = tmp_path / f"student {student}"
        folder.mkdir()
        for path in files.values():
            content = nbformat.read(path, as_version=4)
            content.cells += answers
            nbformat.write(content, folder / path.name)
    benchmark.extra_info["seconds"] = seconds(lambda: grading.grade(tmp_path))
    benchmark.extra_info["target"] = 60
    print(f"\n{STUDENTS} hand-ins of {len(files)} notebooks: {benchmark.extra_info['seconds']:.1f} s, target ≤ 60")
    benchmark.pedantic(lambda: grading.grade(tmp_path), rounds=1, iterations=1)
