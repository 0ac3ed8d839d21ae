"""The synthetic twin: of its size, the same for the same seed, and not what the model says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rislab.data import brisc_twin
from rislab.data.geometry import position
from rislab.data.measurement_files import measurement_of, read_measurement
from rislab.music.localisation import locate


def test_it_is_of_the_published_size() -> None:
    twin = brisc_twin.make_twin(2, 300)
    assert twin["snapshots"].shape == (2, 300, 2) and twin["codes"].shape == (300, 256)
    assert set(np.unique(twin["codes"])) == {-1.0, 1.0}
    assert twin["frequency"] == 5.53e9
    blocks = brisc_twin.make_twin(2, 20, block=4)["codes"].reshape(20, 4, 4, 4, 4)
    assert (blocks == blocks[:, :, :1, :, :1]).all()


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    one, two, other = (brisc_twin.make_twin(2, 50, seed=seed)["snapshots"] for seed in (3, 3, 4))
    assert (one == two).all() and (one != other).any()
    file = brisc_twin.write_twin(tmp_path / "new" / "twin.npz", positions=2, configurations=50, seed=3)
    assert np.array_equal(read_measurement(file).snapshots.numpy(), one)


def test_it_shares_nothing_with_the_package() -> None:
    tree = ast.parse(Path(brisc_twin.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any((module or "").startswith("rislab") for module in modules)


@pytest.mark.slow
def test_the_transmitter_is_located_to_centimetres_once_the_path_past_the_surface_is_gone() -> None:
    twin = brisc_twin.make_twin(3, 500)
    measurement = measurement_of(twin)
    before, after = (locate(one[1], 1) for one in (measurement, measurement.centred()))
    assert before.residual.share > 0.5 and "Measurement.centred()" in before.hint
    assert after.residual.share < 0.2 and after.hint == ""
    # What is left is more than the noise of −13 dB: the twin holds what the model does not know.
    assert after.residual.share > 0.07
    place = position(*(getattr(after.estimate, name)[0, 0] for name in ("azimuth", "elevation", "range")))
    assert float((place - torch.as_tensor(twin["true_positions"][1])).norm()) < 0.15


@pytest.mark.process
def test_it_is_a_script_of_its_own(tmp_path: Path) -> None:
    words = ["-m", "rislab.data.brisc_twin", str(tmp_path / "twin.npz"), "--positions", "2", "--configurations", "40"]
    subprocess.run([sys.executable, *words], check=True)
    assert len(read_measurement(tmp_path / "twin.npz")) == 2
