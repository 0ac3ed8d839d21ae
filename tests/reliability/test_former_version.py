"""What version 0.1 wrote is read, or refused with what to do; the files are its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from rislab.cli.main import main
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model import pretrained
from rislab.model.network import CovarianceNet
from rislab.sanity.overfit import config_of_run
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training import run_folder
from rislab.training.config import TrainConfig
from rislab.training.loop import fit
from rislab.training.records import StepRecord
from rislab.training.state import read_checkpoint
from rislab.training.streaming_config import LearningConfig

FILES = Path(__file__).parent / "version_0_1"
SCENES = SceneConfig(ris_shape=(3, 3), antennas=2, snapshots=4, sources=(1, 2))
DATA = simulate(SCENES, 8, seed=3)


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(FILES / "memoriser", folder)
    config = TrainConfig(epochs=4, micro_batch=4, accumulation_steps=1, ema=0.9)
    model = CovarianceNet.build(SCENES, seed=1, width=4, beams=(3, 2, 1))
    list(run_folder.train(folder, model, DATA, config))
    losses = [record.loss for record in run_folder.read_records(folder) if isinstance(record, StepRecord)]
    assert losses == pytest.approx(json.loads((FILES / "straight.json").read_text()), rel=1e-5)


def test_the_unrolled_design_is_another_now(tmp_path: Path) -> None:
    model = CovarianceNet.build(SCENES, design="unrolled")
    config = TrainConfig(epochs=1, micro_batch=8, optimiser="sgd", ema=None)
    with pytest.raises(InputError, match="of the same version where its design has changed"):
        list(fit(model, DATA, config, resume=FILES / "unrolled" / "checkpoint.pt"))
    with pytest.raises(InputError, match="train it again"):
        run_folder.load_model(FILES / "unrolled")
    path = tmp_path / "weights.safetensors"
    header = {"format": "rislab weights 1", "design": "places", "scenes": json.dumps(SCENES.to_dict())}
    save_file(dict(read_checkpoint(FILES / "unrolled" / "checkpoint.pt")["model"]), path, header)
    with pytest.raises(InputError, match="of an older version.*train it again"):
        pretrained.load(path)


def test_weights_of_the_memoriser_are_read(tmp_path: Path) -> None:
    model = CovarianceNet.build(SCENES, design="memoriser").eval()
    path = tmp_path / "weights.safetensors"
    header = {"format": "rislab weights 1", "design": "beams", "scenes": json.dumps(SCENES.to_dict())}
    save_file(model.state_dict(), path, header)
    again, scenes, read = pretrained.load(path)
    assert (scenes, read["design"]) == (SCENES, "memoriser")
    given = DATA.snapshots, DATA.codes, DATA.channel
    with torch.no_grad():
        torch.testing.assert_close(again(*given), model(*given), rtol=0, atol=0)


def test_configurations_are_read(tmp_path: Path) -> None:
    plain = yaml.safe_load((FILES / "tuning" / "best.yaml").read_text())
    config = LearningConfig.from_file(FILES / "tuning" / "best.yaml")
    assert (plain["design"], config.design, config.lr) == ("places", "unrolled", plain["lr"])
    # A run of the overfit panel, which is loaded by its configuration alone.
    former = OverfitConfig(scenes=64)
    content = {
        "train": former.training().to_dict(),
        "scenes": {name: value for name, value in former.scene_config().to_dict().items() if name != "spacing"},
        "design": "beams",
        "count": 64,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert config_of_run(tmp_path) == former
    # The names are those of files, and no others.
    with pytest.raises(InputError, match="design is 'places'; allowed"):
        LearningConfig(design="places")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**content, "design": "another"}))
    with pytest.raises(InputError, match="design in .* is 'another'; allowed"):
        config_of_run(tmp_path)


def test_a_search_is_refused_and_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tuning"
    shutil.copytree(FILES / "tuning", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["tune", "--skip-ladder", "--run", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "holds a search of version 0.1, which cannot go on; allowed: another folder" in said
    assert f"rislab train --config {folder / 'best.yaml'}" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
