"""What the notebooks ask: enough of it, declared in one place, answered nowhere in the notebooks."""

from __future__ import annotations

import re

import pytest

from rislab.faults.lessons import KINDS, lessons
from rislab.reports import gallery, notebooks

LESSONS = lessons()


def test_each_notebook_asks_enough() -> None:
    for name in notebooks.available():
        exercises = [one for one in LESSONS.exercises.values() if one.notebook == name]
        assert sum(one.kind == "code" for one in exercises) >= 2
        assert sum(one.notebook == name for one in LESSONS.predictions.values()) >= 3
        assert LESSONS.preparations[name].minutes > 0
    assert len(LESSONS.exercises) >= 20
    for exercise in LESSONS.exercises.values():
        assert exercise.kind in KINDS and 1 <= exercise.level <= 3 and exercise.hints and exercise.solution
    for prediction in LESSONS.predictions.values():
        assert prediction.right in prediction.choices and len(set(prediction.choices)) == len(prediction.choices) >= 2


def test_plans_last_as_long_as_they_say() -> None:
    assert set(LESSONS.plans) == {45, 90, 180}
    for minutes, plan in LESSONS.plans.items():
        assert sum(length for length, _, _ in plan) == minutes
        assert {notebook for _, notebook, _ in plan} <= {*LESSONS.preparations, ""}


def test_a_plan_names_what_its_notebook_has() -> None:
    parts = [part for plan in LESSONS.plans.values() for part in plan if part[1]]
    named = [(notebook, name) for _, notebook, what in parts for name in re.findall(r"\*([a-z ]+)\*", what)]
    assert len(named) >= 9
    assert [(name, notebook) for notebook, name in named if LESSONS.exercises[name].notebook != notebook] == []
    sections = [(notebook, name) for _, notebook, what in parts for name in re.findall(r"'(\w[\w ]+)'", what)]
    numbers = [
        (notebook, numbers) for _, notebook, what in parts for numbers in re.findall(r"[Pp]arts (\d) \w+ (\d)", what)
    ]
    sections += [(notebook, f"{number}. ") for notebook, both in numbers for number in both]
    assert len(sections) >= 5
    for notebook, section in sections:
        cells = notebooks.read_notebook(notebooks.find_notebook(notebook)).cells
        assert any(re.search(rf"^##+ {section}", cell.source, re.MULTILINE) for cell in cells), (notebook, section)


def test_a_question_holds_for_every_named_set() -> None:
    """A report showed "Three designs see 2048 fresh scenes in each of 5 epochs" above a run of 1024 and 3."""

    def numbers(text: str) -> set[str]:
        return set(re.findall(r"\d+(?:\.\d+)?", text))

    changed = {(one.notebook, name): values for one in gallery.named_sets() for name, values in one.changed.items()}
    assert len(changed) > 8
    for (notebook, name), (value, default) in changed.items():
        gone = numbers(repr(default)) - numbers(repr(value))
        asked = [one.question for one in LESSONS.predictions.values() if one.notebook == notebook]
        assert [question for question in asked if numbers(question) & gone] == [], name


@pytest.mark.parametrize("name", notebooks.available())
def test_a_notebook_says_what_it_takes_and_asks_what_is_declared(name: str) -> None:
    from rislab.faults.lessons import about

    cells = notebooks.read_notebook(notebooks.find_notebook(name)).cells
    text = "\n".join(cell.source for cell in cells)
    rest = "\n".join(cell.source for cell in cells if cell.id != "about")
    assert cells[1].id == "about" and cells[1].source == about(name, rest)
    asked = re.findall(r'lesson\.predict\("([^"]+)"\)', text)
    assert sorted(asked) == sorted(one.name for one in LESSONS.predictions.values() if one.notebook == name)
    # Each hides something: a figure, a table or a sentence.
    for number in range(1, len(asked) + 1):
        assert f"prediction_{number} = " in text and f"prediction_{number}.shows(" in text
    assert "Solutions" not in text
    # What explains a prediction is folded, and left out of the copies of students.
    for cell in cells:
        assert cell.source.startswith("<details>") == ("answer" in cell.metadata.get("tags", ()))
