"""Weights as files: they come back as they were, the shipped ones are good, and others are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rislab.data.covariance import constant_baseline, nmse
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model import pretrained
from rislab.model.designs import DESIGNS
from rislab.model.network import CovarianceNet
from rislab.training.streaming_config import LearningConfig


@pytest.mark.parametrize("design", DESIGNS)
def test_weights_come_back_as_they_were(design: str, tmp_path: Path) -> None:
    scenes = SceneConfig.preset("classroom")
    model = CovarianceNet.build(scenes, design=design, seed=3)
    pretrained.save(tmp_path / "w.safetensors", model, scenes, {"seed": "3"})
    again, trained_on, header = pretrained.load(tmp_path / "w.safetensors")
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), model.parameters(), strict=True))
    assert trained_on == scenes
    assert header["design"] == design and header["seed"] == "3"


@pytest.mark.parametrize("preset", ["classroom", "full"])
def test_shipped_weights_are_small_and_far_below_the_constant(preset: str) -> None:
    path = pretrained.SHIPPED / f"{preset}.safetensors"
    assert path.stat().st_size <= 5_000_000
    model, scenes, header = pretrained.load("shipped", preset)
    assert scenes == SceneConfig.preset(preset)
    committed = LearningConfig.from_file(pretrained.SHIPPED / f"{preset}.yaml")
    assert (header["design"], int(header["seed"]), int(header["epochs"])) == (
        committed.design, committed.seed, committed.epochs,
    )  # fmt: skip
    assert committed.seed != LearningConfig.EVALUATION
    batch = simulate(SceneConfig.preset(preset, snr_db=15.0), 64, seed=LearningConfig.EVALUATION, split="test")
    score = nmse(model.predict(batch), batch.factor())
    # Over 1 000 scenes a number of sources the mean is below 0.05; 64 scenes scatter, but not fourfold.
    assert float(score.mean()) < 0.2 * constant_baseline(batch)
    assert (pretrained.SHIPPED / f"{preset}.md").read_text().startswith("# ")
    epochs = [json.loads(line) for line in (pretrained.SHIPPED / f"{preset}.jsonl").read_text().splitlines()]
    assert len(epochs) == committed.epochs
    assert f"{epochs[-1]['validation']:.6f}" == header["validation_nmse"]


def test_bad_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not be read"):
        pretrained.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="could not be read"):
        pretrained.load(tmp_path / "bad.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds no weights of a rislab network"):
        pretrained.load(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="preset is 'huge'"):
        pretrained.load("shipped", "huge")


def test_numbers_that_were_changed_and_weights_of_an_older_version_are_refused(tmp_path: Path) -> None:
    scenes, path = SceneConfig.preset("classroom"), tmp_path / "w.safetensors"
    model = CovarianceNet.build(scenes, design="unrolled")
    pretrained.save(path, model, scenes, {})
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["power_head.trust"] += 1e-6
    save_file(tensors, path, header)
    with pytest.raises(InputError, match="w.safetensors is damaged: its numbers are not those that were written"):
        pretrained.load(path)
    save_file(tensors, path, {**header, "format": pretrained.FORMER_FORMATS[0]})
    with pytest.raises(InputError, match=r"is of an older version; allowed: files of this version \(train it again\)"):
        pretrained.load(path)
