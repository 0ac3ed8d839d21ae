"""What does not count: by names, by a comment on the line, by a baseline that moved lines do not change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rislab.checkup.findings import Finding, Findings, as_fault, as_note, as_warning
from rislab.checkup.output.report import CheckupReport
from rislab.checkup.output.silencing import Baseline, file_and_line, names_of, silence, unused_comments
from rislab.checkup.rules import Code
from rislab.errors import InputError

SCALE = as_fault(Code.GRADIENT_SCALE, "never divided", "α = 4", "train.py:2")
SIZE = as_fault(Code.WINDOW_SIZE, "stepped twice", "2", "train.py:3")
STEPS = as_warning(Code.STEPS, "tail never stepped", "3", "train.py:3")
PROBE = as_note(Code.NAN_SURVIVES, "not judged", "no loop")
UNJUDGED = as_note(Code.LOSSES, "not judged", "nobody knows")
ALL = [SCALE, SIZE, STEPS, PROBE, UNJUDGED]
LINES = "import torch\nloss.backward()\noptimizer.step()\n"


def report(*findings: Finding) -> CheckupReport:
    return CheckupReport("train.py", 4, ["SGD"], "ran to its end", False, 0, Findings(findings), [])


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("C1", [SCALE]),
        ("c1, C10", [SCALE, STEPS]),
        ("C", [SCALE, SIZE, STEPS, UNJUDGED]),
        ("p", [PROBE]),
        ("Never Divided", [SCALE]),
        ("gradient scale", [SCALE]),
        ("not judged", [PROBE, UNJUDGED]),
        ("", ALL),
    ],
)
def test_names_choose_findings(words: str, left: list[Finding], tmp_path: Path) -> None:
    names = names_of("select", words)
    chosen = silence(report(*ALL), str(tmp_path), select=names)
    assert chosen.findings == Findings(left)
    ignored = silence(report(*ALL), str(tmp_path), ignore=names)
    assert ignored.findings == Findings(one for one in ALL if one not in left or not words)
    assert len(ignored.silenced) == len(ALL) - len(ignored.findings) and chosen.trained and ignored.trained


def test_a_name_that_no_rule_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"^ignore is 'x'; allowed: codes such as C3"):
        names_of("ignore", "C1,x")
    with pytest.raises(InputError, match="did you mean 'never divided'"):
        names_of("select", ["never devided"])


@pytest.mark.parametrize(
    ("comment", "left"),
    [
        ("# rislab: ignore", []),
        ("#rislab:ignore[C3,C10]", []),
        ("# rislab: ignore[ c3 ]  # noqa", [STEPS]),
        ("# rislab: ignore[tail never stepped]", [SIZE]),
        ("# rislab: ignore[C]", []),
        ("# rislab: ignore[C1]", [SIZE, STEPS]),
        ("# noqa", [SIZE, STEPS]),
    ],
)
def test_a_comment_silences_its_own_line(comment: str, left: list[Finding], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LINES.replace("step()", f"step()  {comment}"))
    after = silence(report(SCALE, SIZE, STEPS), str(tmp_path))
    assert after.findings == Findings([SCALE, *left])
    assert {one.by for one in after.silenced} <= {"comment"} and not after.remarks


def test_a_comment_with_a_name_that_no_rule_has_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LINES.replace("step()", "step()  # rislab: ignore[C3, C99]"))
    after = silence(report(SIZE, STEPS), str(tmp_path))
    assert after.findings == Findings([STEPS])
    assert after.remarks == ["train.py:3: 'C99' in its comment is no code and no name: it silences nothing"]


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("# rislab: ignore", []),
        ("# rislab: ignore[c3, C10]", []),
        ("# rislab: ignore[C]", []),
        ("# rislab: ignore[C3, C1]", ["train.py:3: 'C1' in its comment silenced nothing in this run"]),
        ("# rislab: ignore[C77x]", ["train.py:3: 'C77x' in its comment is no code and no name: it silences nothing"]),
    ],
)
def test_a_comment_that_silences_nothing_is_told(comment: str, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LINES.replace("step()", f"step()  {comment}"))
    after = silence(report(SCALE, SIZE, STEPS), str(tmp_path))
    assert unused_comments(after, str(tmp_path)) == said


def test_comments_of_a_run_that_judged_not_all_are_left_alone(tmp_path: Path) -> None:
    """A run that was stopped has not come to every line, and a rule that could not judge has looked at none."""
    (tmp_path / "train.py").write_text(f'TEXT = "# rislab: ignore"\n# rislab: ignore\n{LINES}  # rislab: ignore[C9]\n')
    here = str(tmp_path)
    assert len(unused_comments(report(SCALE), here)) == 2
    assert not unused_comments(report(SCALE, as_note(Code.LOSSES, "not judged", "nobody knows")), here)
    for changes in ({"failed": True}, {"code": None}, {"steps": 0, "findings": Findings()}, {"script": "the cell"}):
        assert not unused_comments(replace(report(SCALE), **changes), here)


def test_comments_of_other_files_are_told_where_the_loop_ran(tmp_path: Path) -> None:
    """One in a function that did not run may be of use to another script."""
    (tmp_path / "train.py").write_text("import loop\nloop.run()\n")
    other = tmp_path / "loop.py"
    other.write_text(
        "# rislab: ignore[C1]\n\ndef idle():\n    step()  # rislab: ignore[C2]\n\n"
        "def run():\n    backward()  # rislab: ignore[C1]\n    step()  # rislab: ignore[C3, C10]\n"
    )
    size = replace(SIZE, where="loop.py:8")
    places = frozenset({f"{other}:7", f"{other}:8", "/nowhere/gone.py:3"})
    after = silence(replace(report(size), places=places), str(tmp_path))
    assert not after.findings
    assert unused_comments(after, str(tmp_path)) == [
        "loop.py:7: 'C1' in its comment silenced nothing in this run",
        "loop.py:8: 'C10' in its comment silenced nothing in this run",
    ]
    # A module that was run by its name is such a file too.
    assert len(unused_comments(replace(after, script="package.loop"), str(tmp_path))) == 2
    other.write_text("def run(:\n  # rislab: ignore\n")
    assert not unused_comments(after, str(tmp_path))


def test_a_baseline_knows_findings_where_lines_move(tmp_path: Path) -> None:
    source, file = tmp_path / "train.py", tmp_path / "known.json"
    source.write_text(LINES)
    baseline = Baseline.of(Findings([*ALL, SIZE]), str(tmp_path))
    file.write_text(baseline.text())
    assert sum(row["count"] for row in json.loads(file.read_text())["findings"]) == 5  # all but what was not judged
    again = Baseline.from_file(str(file))
    assert again.text() == baseline.text()
    source.write_text("\n\n\n" + LINES.replace("optimizer", "    optimizer"))
    moved = [as_fault(Code.WINDOW_SIZE, "stepped twice", "3, not 2", "train.py:6")] * 3
    after = silence(report(*moved, UNJUDGED), str(tmp_path), baseline=again)
    assert after.findings == Findings([moved[0], UNJUDGED])  # two were known, and there are three
    assert silence(report(*moved), str(tmp_path), baseline=again).findings == [moved[0]]  # it is not used up
    source.write_text("\n\n\n" + LINES.replace("optimizer", "other"))
    assert silence(report(moved[0]), str(tmp_path), baseline=again).findings == [moved[0]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "could not be read: "),
        ("[]", "is none; allowed: a file that --write-baseline made"),
        ('{"version": 2, "findings": []}', "has version 2; allowed: 1"),
        ('{"version": 1, "findings": [{"code": "C1"}]}', "is none; allowed"),
        ('{"version": 1, "findings": [{"code": "C1", "name": "", "file": "", "text": "", "count": "x"}]}', "is none"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "known.json").write_text(text)
    with pytest.raises(InputError, match=said):
        Baseline.from_file(str(tmp_path / "known.json"))
    with pytest.raises(InputError, match="--write-baseline makes it"):
        Baseline.from_file(str(tmp_path / "missing.json"))


def test_the_place_of_a_finding() -> None:
    assert file_and_line(SCALE) == ("train.py", 2)
    assert file_and_line(Finding("C1", "", "fault", "", where="C:/a:b.py:12")) == ("C:/a:b.py", 12)
    assert file_and_line(UNJUDGED) == ("", 0)
    assert file_and_line(Finding("C1", "", "fault", "", where="somewhere")) == ("somewhere", 0)


def test_what_is_silenced_is_counted_in_the_verdict() -> None:
    clean = silence(report(SCALE), "/", ignore=["C1"])
    assert clean.verdict == "All other checks passed. Silenced: 1 by selection."
    assert silence(report(SCALE, SIZE), "/", ignore=["C1"]).verdict == "Found 1 fault. Silenced: 1 by selection."
    assert silence(report(UNJUDGED, SIZE), "/", ignore=["C3"]).verdict == (
        "Found no fault. Not judged: C9. Silenced: 1 by selection."
    )
    assert silence(report(UNJUDGED), "/", ignore=["C9"]).exit_code() == 0
