"""Two processes that train together: their gradients are those of one, and they exchange them once a window."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rislab.data.scenes import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.losses import NO_CURRICULUM, compute_loss
from rislab.model.network import CovarianceNet
from rislab.training import distributed
from rislab.training.streaming import LearningConfig

# Each process has half of 64 scenes, in windows of two micro-batches of 16.
WORK = """
import json, sys
import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from rislab.training import distributed
from rislab.data.scenes import SceneConfig
from rislab.data.simulation import simulate
from rislab.model.losses import NO_CURRICULUM, compute_loss
from rislab.model.network import CovarianceNet

torch.set_num_threads(1)
rank, world = distributed.rank_and_world_size()
with distributed.process_group():
    data = simulate(SceneConfig.preset("classroom"), 64, seed=0)[32 * rank : 32 * rank + 32]
    shared = distributed.GradientSync(CovarianceNet.build(data.config, design=sys.argv[1]), 2, 2)
    exchanged = [0]

    def counting(state, bucket):
        exchanged[0] += 1
        return default_hooks.allreduce_hook(state, bucket)

    shared.averaging.register_comm_hook(None, counting)
    told = []
    for first in (0, 16):
        batch = data[first : first + 16]
        output = shared(batch.snapshots, batch.codes, batch.channel)
        (compute_loss(output, batch, NO_CURRICULUM).total / 2).backward()
        told.append(exchanged[0])
    gradient = torch.cat([value.grad.flatten() for value in shared.parameters()])
    torch.save((gradient, told), f"{sys.argv[2]}/{rank}.pt")
"""


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Under torchrun with two processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *command]
    plain = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(start, cwd=folder, env=plain, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("design", ["unrolled", "memoriser"])
def test_gradients_of_two_are_those_of_one(design: str, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    done = run("work.py", design, str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    data = simulate(SceneConfig.preset("classroom"), 64, seed=0)
    model = CovarianceNet.build(data.config, design=design)
    compute_loss(model(data.snapshots, data.codes, data.channel), data, NO_CURRICULUM).total.backward()
    one = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
    for rank in (0, 1):
        gradient, told = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        # The rounding of float32, in sums of another order.
        assert float((gradient - one).norm() / one.norm()) < 1e-4
        assert told[0] == 0 and told[1] > 0


def test_the_command_trains_on_two_processes(tmp_path: Path) -> None:
    small = ["--preset", "classroom", "--scenes", "128", "--epochs", "2", "--validation", "32", "--micro-batch", "16"]
    files = ["--folder", "run", "--export", "w.safetensors", "--threads", "1", "--json", "--accumulation-steps", "2"]
    done = run("-m", "rislab.cli.main", "train", *small, *files, folder=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["epoch"] for line in lines] == [1, 2], done.stderr
    assert (tmp_path / "w.safetensors").exists() and (tmp_path / "run" / "records.jsonl").exists()


def test_what_cannot_be_shared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    config = LearningConfig(preset="classroom", scenes=64)
    with pytest.raises(InputError, match="scenes is 64; allowed: a multiple of 3"):
        next(distributed.train_distributed(tmp_path, config, config.model()))
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(InputError, match="was begun"):
        next(distributed.train_distributed(tmp_path, config, config.model()))
