"""The corpus holds what it says: faults with their measured effect, correct programs that run, known labels."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.corpus.cases import FOLDER, SPLITS, Pair, Program, clean, missing, pairs
from tests.forks import Forked

PAIRS, PROGRAMS = list(pairs()), list(clean())
LABELS = set(yaml.safe_load((FOLDER / "labels.yaml").read_text()))
SOAK = "RISLAB_SOAK" in os.environ
# A sample for every test, from the whole alphabet of what runs here.
RUN = PAIRS if SOAK else [one for one in PAIRS if not missing(one.needs)][:: max(1, len(PAIRS) // 12)][:12]
RUN_PROGRAMS = PROGRAMS if SOAK else [one for one in PROGRAMS if not missing(one.needs)][::20]
KINDS, MOST_OF_A_KIND, LONGEST = 25, 12, 80
FINAL = re.compile(r"final error: (\S+)")


def outputs(scripts: Mapping[str, Path], folder: Path, seed: int = 0) -> dict[str, str]:
    """The standard outputs of scripts that run beside each other and must end well, by their names."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "SEED": str(seed), "TQDM_DISABLE": "1"}
    begun = {}
    for name, path in scripts.items():
        (own := folder / f"{name}-{seed}").mkdir()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun[name] = Forked([sys.executable, path], cwd=own, env=environment, **pipes)
    ended = {name: process.communicate() for name, process in begun.items()}
    assert [process.returncode for process in begun.values()] == [0] * len(begun), ended
    return {name: output for name, (output, _) in ended.items()}


@pytest.mark.process
@pytest.mark.parametrize("pair", RUN, ids=lambda pair: pair.name)
def test_the_fault_has_its_measured_effect_and_the_fix_has_not(pair: Pair, tmp_path: Path) -> None:
    """All five seeds where there is time; else the one on which the pair differs most, as it was measured."""
    if missing(pair.needs):
        pytest.skip(f"needs {', '.join(pair.needs)}")
    effect = pair.effect
    differences = [bad - good for bad, good in zip(effect.faulty_seeds, effect.fixed_seeds, strict=True)]
    seeds = range(5) if SOAK else [max(range(5), key=differences.__getitem__)]
    printed = [outputs(pair.scripts, tmp_path, seed) for seed in seeds]
    faulty, fixed = ([float(FINAL.findall(one[role])[-1]) for one in printed] for role in ("faulty", "fixed"))
    worse = sum(bad > good for bad, good in zip(faulty, fixed, strict=True))
    if pair.harmless:
        assert faulty == pytest.approx(fixed, rel=0.05)
    else:
        assert worse >= (min(effect.faulty_worse_in, 4) if SOAK else 1), (faulty, fixed)
        assert sum(faulty) > sum(fixed)


@pytest.mark.process
@pytest.mark.parametrize("program", RUN_PROGRAMS, ids=lambda program: program.name)
def test_correct_programs_end_well(program: Program, tmp_path: Path) -> None:
    if missing(program.needs):
        pytest.skip(f"needs {', '.join(program.needs)}")
    outputs(program.scripts, tmp_path)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_case_says_all_that_it_should(pair: Pair) -> None:
    assert pair.labels and set(pair.labels) <= LABELS
    assert pair.names and pair.title and pair.seen and pair.checked and pair.kind
    assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", pair.source)
    assert pair.split in SPLITS and pair.found_by in ("symptom", "name")
    faulty, fixed = pair.faulty.read_text(), pair.fixed.read_text()
    assert faulty != fixed
    assert 1 <= pair.line <= faulty.count("\n") <= LONGEST + 10
    assert faulty.splitlines()[pair.line - 1].strip()
    for text in (faulty, fixed):
        ast.parse(text)
        assert "rislab" not in text and "set_num_threads(1)" in text
    effect = pair.effect
    assert len(effect.faulty_seeds) == len(effect.fixed_seeds) == 5
    worse = sum(bad > good for bad, good in zip(effect.faulty_seeds, effect.fixed_seeds, strict=True))
    assert worse == effect.faulty_worse_in
    assert pair.harmless == (worse < 4)


def test_there_are_many_kinds_and_none_rules() -> None:
    kinds = Counter(pair.kind for pair in PAIRS)
    assert len(kinds) >= KINDS
    assert max(kinds.values()) <= MOST_OF_A_KIND
    assert sum(pair.found_by == "symptom" for pair in PAIRS) >= len(PAIRS) / 3
    assert min(Counter(pair.split for pair in PAIRS).values()) >= 20


def test_correct_programs_say_why() -> None:
    assert len(PROGRAMS) >= 100
    for program in PROGRAMS:
        assert program.path.is_file()
        assert program.split in SPLITS
        assert re.fullmatch(r"\w.{30,}\.", program.why), program.name


def test_no_person_and_no_machine_is_named() -> None:
    for path in (*FOLDER.glob("pairs/*/*"), *FOLDER.glob("clean/*.py"), FOLDER / "log.md"):
        assert not re.search(r"/home/|/Users/|[\w.]+@\w+\.\w+", path.read_text()), path
