"""Training on fresh scenes: none comes twice, a stop changes nothing, and files say what they are."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rislab.cli.main import main
from rislab.data.covariance import constant_baseline
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.training import run_folder, streaming
from rislab.training.records import StepRecord, epoch_records
from rislab.training.streaming import train_epochs, train_streaming
from rislab.training.streaming_config import LearningConfig

SMALL = LearningConfig(preset="classroom", scenes=64, epochs=3, validation=32, micro_batch=16)


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def test_no_scene_comes_twice_and_none_of_those_that_judge() -> None:
    seen = [digest for epoch in (1, 2, 3) for digest in SMALL.draw(epoch).hashes()]
    judges = SMALL.validation_data().hashes()
    test = simulate(SMALL.scene_config(), 32, seed=SMALL.EVALUATION, split="test").hashes()
    assert len({*seen, *judges, *test}) == 3 * 64 + 32 + 32


@pytest.mark.slow
def test_a_few_epochs_beat_the_best_constant() -> None:
    config = LearningConfig(preset="classroom", scenes=256, epochs=3, validation=64, lr=1e-2)
    model = config.model()
    told = epoch_records(train_epochs(config, model))
    line = constant_baseline(config.validation_data())
    assert [record.epoch for record in told] == [1, 2, 3]
    assert told[-1].validation is not None and told[-1].validation < 0.5 * line
    # The online loss of an epoch and the validation are of different scenes, and of one size.
    assert told[-1].train < line


@pytest.mark.slow
def test_stopped_and_gone_on_is_never_stopped(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    straight = SMALL.model()
    whole = [
        record for record in train_streaming(tmp_path / "whole", SMALL, straight) if isinstance(record, StepRecord)
    ]
    for stop in (2, 5, None):
        stopped = SMALL.model()
        stream = train_streaming(tmp_path / "stopped", SMALL, stopped)
        for _ in islice(stream, stop):
            pass
        stream.close()
    assert torch.equal(flat(stopped), flat(straight))
    again = [one for one in run_folder.read_records(tmp_path / "stopped") if isinstance(one, StepRecord)]
    assert [one.loss for one in again] == [one.loss for one in whole]
    model, scenes = run_folder.load_model(tmp_path / "whole")
    assert torch.equal(flat(model), flat(straight)) and scenes == SMALL.scene_config()


def test_patience_ends_it() -> None:
    assert not streaming.is_exhausted([1.0, 0.9, 0.95], 0)
    assert not streaming.is_exhausted([1.0, 0.9], 2)
    assert not streaming.is_exhausted([1.0, 0.9, 0.95], 2)
    assert streaming.is_exhausted([1.0, 0.9, 0.95, 0.9], 2)
    assert streaming.is_exhausted([1.0, math.nan, math.nan], 2)
    assert streaming.is_exhausted([math.nan, 0.9, 0.95, 0.9], 2)
    assert not streaming.is_exhausted([math.nan, math.nan, 0.9], 2)


def test_the_curriculum_has_a_timeline() -> None:
    config = LearningConfig(curriculum="three-phase", epochs=6)
    assert [(epoch, phase.name) for epoch, phase in config.phase_starts()] == [
        (1, "phase=0"),
        (3, "phase=1"),
        (5, "phase=2"),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preset": "huge"}, "preset is 'huge'"),
        ({"design": "magic"}, "design is 'magic'"),
        ({"scenes": 0}, "scenes is 0"),
        ({"seed": 2024}, "seed is 2024"),
        ({"lr": 0.0}, "lr is 0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"micro_batch": "32"}, "micro_batch is '32'"),
        ({"accumulation_steps": 0}, "accumulation_steps is 0"),
        ({"epochs": None}, "epochs is None"),
        ({"patience": -1}, "patience is -1"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_bad_configurations_are_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LearningConfig.from_dict(changes)


def test_a_config_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(InputError, match="holds no mapping"):
        LearningConfig.from_file(tmp_path / "list.yaml")
    with pytest.raises(InputError, match="could not be read"):
        LearningConfig.from_file(tmp_path / "none.yaml")
    (tmp_path / "date.yaml").write_text("seed: 2024-99-99")
    with pytest.raises(InputError, match=r"is not YAML: a value in it cannot be built \(month must be in"):
        LearningConfig.from_file(tmp_path / "date.yaml")


def test_weights_that_cannot_be_written_are_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--export", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "export is" in said.err and "allowed: the path of a file" in said.err and said.out == ""


@pytest.mark.slow
def test_the_command_trains_and_its_weights_localise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "classroom", "--scenes", "256", "--epochs", "2", "--validation", "64", "--threads", "1"]
    files = ["--run", str(tmp_path / "run"), "--export", str(tmp_path / "w.safetensors")]
    assert main(["train", *options, *files, "--lr", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "epoch   2" in out and "best constant" in out
    assert main(["train", *options, *files[:2], "--lr", "0.01"]) == 2
    assert "is complete; allowed: another folder, or --export FILE" in capsys.readouterr().err
    # As after an end, or a full disk, between the training and its export.
    weights = load_file(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").unlink()
    assert main(["train", *options, *files, "--lr", "0.01"]) == 0
    again = load_file(tmp_path / "w.safetensors")
    assert again.keys() == weights.keys() and all(torch.equal(again[name], weights[name]) for name in weights)
    assert "weights: " in capsys.readouterr().out
    cell = ["--snr", "10", "--sources", "1", "--scenes", "20", "--threads", "1", "--json"]
    assert main(["localise", "--preset", "classroom", "--weights", str(tmp_path / "w.safetensors"), *cell]) == 0
    plain = json.loads(capsys.readouterr().out)
    names = [score["estimator"] for score in plain["scores"]]
    assert {"sparse", "learned + MUSIC", "learned + MUSIC + polish", "random + polish"} <= set(names)
    assert plain["seed"] == LearningConfig.EVALUATION
    (far,) = plain["covariances"]
    assert far["nmse"]["zero"] == 1.0 and far["nmse"]["learned"] < far["nmse"]["constant"] < far["nmse"]["identity"]
    assert 0 <= plain["counting"][0]["learned"] <= 1
    assert main(["localise", "--preset", "full", "--weights", str(tmp_path / "w.safetensors"), *cell]) == 2
    assert "preset is 'full'" in capsys.readouterr().err


def test_scenes_of_a_mixture_are_those_of_their_own_law_and_channel() -> None:
    config = SMALL.changed(scenes=40, free_space=0.25, line_of_sight=0.6)
    batch = config.draw(2)
    assert batch.index.tolist() == list(range(40, 80)) and batch.config == config.scene_config()
    for law, kappa, first, last in (("equal", 0.0, 40, 52), ("equal", 10.0, 64, 70), ("free-space", 3.0, 76, 78)):
        alone = config.scene_config().changed(power_law=law, rician_factor=kappa)
        own = simulate(alone, last - first, seed=config.seed, start=first)
        assert torch.equal(own.snapshots, batch[first - 40 : last - 40].snapshots)
