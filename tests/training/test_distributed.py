"""Two processes that train together: their gradients are those of one, and they exchange them once a window."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.curriculum import NO_CURRICULUM
from rislab.model.losses import compute_loss
from rislab.model.network import CovarianceNet
from rislab.training import distributed
from rislab.training.streaming_config import LearningConfig
from tests.children import begin_child

DESIGNS = ("unrolled", "memoriser")
# Each process has half of 64 scenes, in windows of two micro-batches of 16.
WORK = """
import os
os.environ |= environment
import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from rislab.training import distributed
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.model.losses import compute_loss
from rislab.model.curriculum import NO_CURRICULUM
from rislab.model.network import CovarianceNet

rank, world = distributed.rank_and_world_size()
exchanged = 0

def counting(state, bucket):
    global exchanged
    exchanged += 1
    return default_hooks.allreduce_hook(state, bucket)

with distributed.process_group():
    for design in designs:
        data = simulate(SceneConfig.preset("classroom"), 64, seed=0)[32 * rank : 32 * rank + 32]
        synced = distributed.GradientSync(CovarianceNet.build(data.config, design=design), 2, 2)
        synced.averaging.register_comm_hook(None, counting)
        exchanged, counts = 0, []
        for first in (0, 16):
            batch = data[first : first + 16]
            output = synced(batch.snapshots, batch.codes, batch.channel)
            (compute_loss(output, batch, NO_CURRICULUM).total / 2).backward()
            counts.append(exchanged)
        gradient = torch.cat([value.grad.flatten() for value in synced.parameters()])
        torch.save((gradient, counts), f"{folder}/{design}-{rank}.pt")
"""


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the gradients of two processes, and the exchanges after each of their micro-batches, by design."""
    folder = tmp_path_factory.mktemp("gradients")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        begin_child(WORK, environment={**common, "RANK": str(rank)}, designs=DESIGNS, folder=str(folder))[0]
        for rank in (0, 1)
    ]
    for child in children:
        child.join(900)
    assert [child.exitcode for child in children] == [0, 0]
    return folder


@pytest.mark.process
@pytest.mark.parametrize("design", DESIGNS)
def test_gradients_of_two_are_those_of_one(design: str, gradients: Path) -> None:
    data = simulate(SceneConfig.preset("classroom"), 64, seed=0)
    model = CovarianceNet.build(data.config, design=design)
    compute_loss(model(data.snapshots, data.codes, data.channel), data, NO_CURRICULUM).total.backward()
    one = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
    for rank in (0, 1):
        gradient, exchanges = torch.load(gradients / f"{design}-{rank}.pt", weights_only=True)
        # The rounding of float32, in sums of another order.
        assert float((gradient - one).norm() / one.norm()) < 1e-4
        assert exchanges[0] == 0 and exchanges[1] > 0


@pytest.mark.process
def test_the_command_trains_on_two_processes(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    small = ["--preset", "classroom", "--scenes", "128", "--epochs", "2", "--validation", "32", "--micro-batch", "16"]
    files = ["--folder", "run", "--export", "w.safetensors", "--threads", "1", "--json", "--accumulation-steps", "2"]
    command = [*start, "-m", "rislab.cli", "train", *small, *files]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=one_thread, capture_output=True, text=True, timeout=900)
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
