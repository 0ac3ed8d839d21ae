"""Any words after any command: an exit code, and with 2 one sentence on stderr; what would take long is not begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rislab.cli.main import COMMANDS, main, parser_of
from tests.reliability.strange_inputs import cases


class BegunError(Exception):
    """The words were taken, and the work would begin."""


# Where the work of a command begins.
WORK = {
    "checkup": ["rislab.checkup.script.run_script"],
    "explain": ["rislab.reports.rule_pages.write_rule_pages"],
    "faults": ["rislab.faults.comparison.compare_runs"],
    "overfit": ["rislab.sanity.overfit_ladder.ladder"],
    "localise": ["rislab.sanity.conventions.check_conventions"],
    "train": ["rislab.training.streaming_config.LearningConfig.model"],
    "tune": ["rislab.tuning.search.run_search"],
    "lab": [
        "rislab.reports.servers.working_copy",
        "rislab.reports.classroom.write_teachers_edition",
        "rislab.reports.servers.exec_server",
    ],
    "report": ["rislab.reports.gallery.NamedSet.run", "rislab.reports.gallery.build_gallery"],
    "sweep": ["rislab.reports.sweep.run_sweep", "rislab.reports.sweep_page.write_sweep_page"],
    "app": ["rislab.reports.servers.run_server"],
    "grade": ["rislab.reports.grading.grade"],
}
STRANGE = st.sampled_from(
    ["", "0", "1", "-1", "4", "0.5", "1e309", "nan", "inf", "-", "--", "-p", ".", "..", "/", "/etc/passwd", "none.py",
     "a.npz", "a/b.mat", "no\n\x1b[2Jsuch", "é\u2028", "\udcff", "%s %d", "{}", "$(x)", "a" * 300, "a" * 5000, "=",
     "lr=1:2", "lr=1e-4:1e-2:log", "seed=0,1", "fp32", "full", "C1", "P", "start", "overfit", "9" * 5000, "1,2"]
)  # fmt: skip


def words_of(command: str) -> st.SearchStrategy[list[str]]:
    actions = parser_of(command).actions()
    options = [flag for action in actions for flag in action.option_strings]
    values = [str(value) for action in actions for value in getattr(action, "values", None) or ()]
    word = st.sampled_from([*options, *values, "-p"]) | STRANGE
    pair = st.tuples(st.sampled_from(options or ["-p"]), STRANGE)
    return st.lists(pair | st.tuples(word), max_size=4).map(lambda some: [one for pair in some for one in pair])


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_any_words(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begun(*_: Any, **__: Any) -> Any:
        raise BegunError

    for place in WORK.get(command, []):
        monkeypatch.setattr(place, begun)
    monkeypatch.chdir(tmp_path)

    @cases(50)
    @given(words_of(command))
    def tried(words: list[str]) -> None:
        capsys.readouterr()
        try:
            code = main([command, *words])
        except BegunError:
            return
        except SystemExit as leaving:
            assert leaving.code == 0 and {"-h", "--help"} & set(words)
            return
        finally:
            torch.set_num_threads(1)
        said = capsys.readouterr().err
        assert code in (0, 1, 2, 3)
        if code == 2:
            assert said.startswith("rislab: ") and said.endswith("\n") and said[:-1].isprintable(), said

    tried()
