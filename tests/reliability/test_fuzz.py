"""Whatever stands in a configuration, a checkpoint, a record or a parameter: it is used, or refused in one sentence.

`make soak` tries ten thousand and more; here a tenth.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rislab.cli.main import main
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.faults.story import StoryConfig
from rislab.model import pretrained
from rislab.model.network import CovarianceNet
from rislab.reports import gallery, grading, notebooks, parameter_checks, runner
from rislab.sanity.overfit import config_of_run
from rislab.sanity.overfit_config import OverfitConfig
from rislab.sanity.precision import PrecisionConfig
from rislab.training import run_folder
from rislab.training.config import TrainConfig
from rislab.training.loop import fit
from rislab.training.state import MAGIC
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.space import KINDS as KINDS_SEARCHED
from rislab.tuning.space import parse_space, read_space
from rislab.tuning.tuning_config import TuningConfig
from tests.reliability.strange_inputs import NUMBERS, PLAIN, SPOILS, cases, refused_or_used, spoilt

KINDS: dict[str, Any] = {
    "SceneConfig": SceneConfig,
    "TrainConfig": TrainConfig,
    "OverfitConfig": OverfitConfig,
    "LearningConfig": LearningConfig,
    "TuningConfig": TuningConfig,
    "PrecisionConfig": PrecisionConfig,
    "StoryConfig": StoryConfig,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_configurations(kind: str) -> None:
    made = KINDS[kind]
    names = [field.name for field in dataclasses.fields(made)]
    build = made.from_dict if hasattr(made, "from_dict") else lambda fields: made(**fields)
    known = st.dictionaries(st.sampled_from(names), PLAIN, min_size=1, max_size=3)
    # Constructors by keyword leave unknown names to Python; mappings from files do not.
    fields = known | st.dictionaries(st.text(max_size=8), PLAIN, max_size=2) if hasattr(made, "from_dict") else known

    @cases(70)
    @given(fields)
    def tried(values: dict[str, Any]) -> None:
        refused_or_used(lambda: build(values))

    tried()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(notebooks.available()))
def test_parameters_of_reports(name: str) -> None:
    path = notebooks.find_notebook(name)
    known = list(notebooks.parameters(path))

    @cases(20)
    @given(
        st.dictionaries(
            st.sampled_from(known) | st.text(max_size=6), st.text(max_size=16) | NUMBERS.map(str), max_size=3
        )
    )
    def texts(values: dict[str, str]) -> None:
        def call() -> None:
            runner.checked_values(path, notebooks.parse_values(path, values), parameter_checks.check_for(name))

        refused_or_used(call)

    @cases(20)
    @given(st.dictionaries(st.sampled_from(known) | st.text(max_size=6), PLAIN, max_size=3))
    def typed(values: dict[str, Any]) -> None:
        refused_or_used(lambda: runner.checked_values(path, values, parameter_checks.check_for(name)))

    texts()
    typed()


# What random text does not hit, and what the parser of YAML answers with errors of other kinds than its own.
HARD = (
    "2026-13-45", "!!bool perhaps", "!!int ''", "!!int x", "!!float x", "!!timestamp x", "!!binary é",
    "!!python/name:os", "? [1]\n: 2", "&a [*a]", "[" * 600, "{a: " * 600, "[" * 600 + "]" * 600,
    "0x", "1__0", "\x00",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("value", HARD, ids=lambda text: text[:12])
def test_hard_yaml(value: str, tmp_path: Path) -> None:
    for content in (value, f"seed: {value}", f"notebook: start\ntitle: Start\nparameters:\n  seed: {value}"):
        read_as_yaml(content.encode(), tmp_path)
    refused_or_used(lambda: main(["localise", "--threads", "1", "--scenes", "0", "-p", "separation", value]))
    refused_or_used(lambda: notebooks.parse_values(notebooks.find_notebook("music"), {"estimators": value}))


@cases(60)
@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | PLAIN.map(yaml.safe_dump).map(str.encode)
)
def test_yaml_files(content: bytes, tmp_path: Path) -> None:
    read_as_yaml(content, tmp_path)


def read_as_yaml(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(content)
    for call in (
        lambda: LearningConfig.from_file(file),
        lambda: read_space(file),
        lambda: gallery.read_set(file),
        lambda: notebooks.read_values(notebooks.find_notebook("overfit"), file),
    ):
        refused_or_used(call)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / run_folder.CONFIG).write_bytes(content)
    refused_or_used(lambda: run_folder.read_config(tmp_path / "run"))
    refused_or_used(lambda: run_folder.load_model(tmp_path / "run"))
    refused_or_used(lambda: config_of_run(tmp_path / "run"))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    folder = tmp_path_factory.mktemp("run")
    data = simulate(SceneConfig.preset("classroom"), 32, seed=0)
    list(run_folder.train(folder, CovarianceNet.build(data.config), data, TrainConfig(epochs=1, micro_batch=16)))
    return folder, (folder / run_folder.CHECKPOINT).read_bytes(), (folder / run_folder.RECORDS).read_bytes()


@pytest.mark.slow
@cases(60)
@given(spoils=SPOILS, cut=st.just(0) | st.integers(0, 10**9), inside=st.booleans())
def test_checkpoints(
    spoils: Any, cut: int, inside: bool, finished_run: tuple[Path, bytes, bytes], tmp_path: Path
) -> None:
    """Bytes changed or cut off; half the time with a checksum that fits, so that what lies behind it is reached."""
    import zlib

    _, content, _ = finished_run
    if inside:
        body = spoilt(content[len(MAGIC) + 4 :], spoils, cut)
        content = MAGIC + zlib.crc32(body).to_bytes(4, "big") + body
    else:
        content = spoilt(content, spoils, cut)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    data = simulate(SceneConfig.preset("classroom"), 32, seed=0)
    config = TrainConfig(epochs=1, micro_batch=16)

    def call() -> None:
        stream = fit(CovarianceNet.build(data.config), data, config, resume=path)
        next(stream, None)
        stream.close()

    refused_or_used(call)


@cases(100)
@given(spoils=SPOILS, cut=st.just(0) | st.integers(0, 10**9), line=st.none() | PLAIN.map(json.dumps))
def test_records(
    spoils: Any, cut: int, line: str | None, finished_run: tuple[Path, bytes, bytes], tmp_path: Path
) -> None:
    content = spoilt(finished_run[2], spoils, cut) + (b"" if line is None else line.encode() + b"\n")
    (tmp_path / run_folder.RECORDS).write_bytes(content)
    refused_or_used(lambda: run_folder.read_records(tmp_path))


@cases(60)
@given(spoils=SPOILS, cut=st.just(0) | st.integers(0, 10**9))
def test_weights(spoils: Any, cut: int, tmp_path: Path) -> None:
    content = (Path(pretrained.__file__).parent / "weights" / "classroom.safetensors").read_bytes()
    # Names and shapes stand in the first bytes: there a change says most.
    near = [(place % 3000, value) for place, value in spoils]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(spoilt(content, near, cut))
    refused_or_used(lambda: pretrained.load(str(path), "classroom"))


@pytest.mark.slow
@cases(50)
@given(
    texts=st.lists(
        st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from([*KINDS_SEARCHED]), st.text(max_size=12)),
        max_size=3,
    )
)
def test_what_is_typed(texts: list[str]) -> None:
    from rislab.reports import sweep

    chosen = gallery.find_set("overfit")
    refused_or_used(lambda: parse_space(texts))
    refused_or_used(lambda: sweep.sweep_cells(chosen, sweep.parse_grid(chosen, texts), {}))


@cases(50)
@given(content=st.binary(max_size=300) | PLAIN.map(json.dumps).map(str.encode))
def test_notebooks_of_others(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "one.ipynb").write_bytes(content)
    refused_or_used(lambda: notebooks.parameters(tmp_path / "one.ipynb"))
    refused_or_used(lambda: grading.grade(tmp_path))


@pytest.mark.parametrize(
    "content", ["[" * 10**5, '{"a":' * 10**5, "9" * 5000, "NaN", "\ufeff{}"], ids=lambda text: text[:5]
)
def test_hard_json(content: str, tmp_path: Path) -> None:
    for name, text in (("one", content), ("two", f'{{"nbformat": 4, "nbformat_minor": 5, "cells": {content}}}')):
        (tmp_path / f"{name}.ipynb").write_text(text, encoding="utf-8")
        refused_or_used(lambda: notebooks.parameters(tmp_path / f"{name}.ipynb"))  # noqa: B023 - called at once
    refused_or_used(lambda: grading.grade(tmp_path))
    (tmp_path / run_folder.RECORDS).write_text(content + "\n", encoding="utf-8")
    refused_or_used(lambda: run_folder.read_records(tmp_path))


def test_the_soak_has_ten_thousand_cases() -> None:
    """Counted from the numbers above, so that nobody has to believe a comment."""
    count = 70 * len(KINDS) + 40 * len(notebooks.available()) + 60 * 7 + 60 + 100 + 60 + 50 * 2 + 50 * 2
    assert 10 * count > 10_000
    assert torch.get_num_threads() == 1
