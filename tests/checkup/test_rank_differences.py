"""Two processes of one training: what must be the same in both, and what need not."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rislab.checkup.observers.rank_differences import RankMarks, compare_ranks
from tests.forks import Forked

SAME = {f"1, step {step}": "a" for step in (1, 2, 4, 8)}


def names(*marks: RankMarks) -> list[str]:
    return [f"{finding.severity} {finding.name}" for finding in compare_ranks(marks)]


def two(wrapped: bool = True, **second: Any) -> list[RankMarks]:
    first = RankMarks(0, 2, wrapped, dict(SAME), dict(SAME), [[[0, 7], [1, 7]]])
    return [first, dataclasses.replace(first, rank=1, **second)]


def test_weights_that_drift_apart_are_a_fault() -> None:
    drifted = {**SAME, "1, step 4": "b", "1, step 8": "b"}
    assert names(*two()) == []
    assert names(*two(weights=drifted)) == ["fault weights differ between ranks"]
    assert "after step 2, at each of 2 looks before step 4, step 8" in compare_ranks(two(weights=drifted))[0].evidence
    # Without a DistributedDataParallel, ranks may go their own ways, if they do not share their gradients.
    own = {key: "b" for key in SAME}
    assert names(*two(False, weights=drifted, gradients=own)) == ["warning weights differ between ranks"]
    assert names(*two(False, weights=own, gradients=own)) == []
    assert names(*two(False, weights=own)) == ["fault weights differ between ranks"]


def test_what_comes_together_again_is_meant() -> None:
    assert names(*two(weights={**SAME, "1, step 2": "b", "1, step 4": "b"})) == []


def test_only_whole_groups_are_compared() -> None:
    one, other = two(weights={**SAME, "1, step 4": "b", "1, step 8": "b"})
    assert names(one) == names(one, one) == names(one, other, dataclasses.replace(other, rank=2)) == []


def test_samplers_share_out_one_order() -> None:
    assert names(*two(orders=[[[0, 8], [1, 8]]])) == ["fault samplers differ between ranks"]
    assert names(*two(orders=[[[0, 7], [0, 7]]])) == ["fault samplers differ between ranks"]
    assert names(*two(orders=[[[0, 7], [1, 7], [2, 7]]])) == names(*two(orders=[])) == []


TRAINING = """
import contextlib, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

def train(rank, kind, path):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    own = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.1), nn.Tanh(), nn.Linear(6, 1))
    ddp = DistributedDataParallel(own)
    network = own if kind == "bypassed" else ddp
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.05)
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    sampler = DistributedSampler(data, seed=rank if kind == "seeds" else 0)
    loader = DataLoader(data, batch_size=8, sampler=sampler)
    size = 2 if kind == "accumulated" else 1
    for epoch in range(4):
        if kind != "order":
            sampler.set_epoch(epoch)
        for number, (x, y) in enumerate(loader, start=1):
            last = number % size == 0
            with contextlib.nullcontext() if last else ddp.no_sync():
                (nn.functional.mse_loss(network(x), y) / size).backward()
            if last:
                if kind == "clipped":
                    nn.utils.clip_grad_norm_(ddp.parameters(), 0.5)
                if kind == "noise":
                    own[0].weight.grad += 0.1 * torch.randn_like(own[0].weight)
                optimizer.step()
                optimizer.zero_grad()
    weights = torch.cat([value.detach().flatten() for value in own.parameters()])
    torch.save([weights, torch.get_rng_state()], f"{path}.{kind}.{rank}")
    # The group is left to the end of the process: where a reducer holds it last, torch joins its thread with the GIL.
    dist.barrier()

if __name__ == "__main__":
    # What spawned processes report comes the same way: test_script.py.
    for kind in sys.argv[2:]:
        mp.start_processes(train, (kind, f"{sys.argv[1]}/{kind}"), 2, start_method="fork")
"""
WATCHED = """
import dataclasses, json, sys
from rislab.checkup.script import run_script
if __name__ == "__main__":
    for kind in sys.argv[3:]:
        result = run_script(sys.argv[1], [sys.argv[2], kind])
        print("RESULT" + json.dumps([result.steps, result.ended, [dataclasses.asdict(one) for one in result.findings]]))
"""
KINDS = {
    "plain": [],
    "accumulated": [],
    "clipped": [],
    "order": ["sampler without set_epoch"],
    "seeds": ["samplers differ between ranks"],
    "bypassed": ["weights differ between ranks"],
    "noise": ["weights differ between ranks"],
}


@pytest.mark.process
def test_two_processes_over_gloo(tmp_path: Path) -> None:
    import torch

    script, driver = tmp_path / "train.py", tmp_path / "watched.py"
    script.write_text(TRAINING)
    driver.write_text(WATCHED)
    for name in ("bare", "watched"):
        (tmp_path / name).mkdir()
    bare = Forked([sys.executable, script, tmp_path / "bare", "plain", "accumulated"])
    command = [sys.executable, driver, script, tmp_path / "watched", *KINDS]
    with Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watched:
        said, errors = watched.communicate()
    assert bare.wait() == 0
    lines = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("RESULT")]
    assert len(lines) == len(KINDS), errors
    for (kind, expected), (steps, ended, findings) in zip(KINDS.items(), lines, strict=True):
        assert (steps, ended) == (16 if kind == "accumulated" else 32, "ran to its end"), kind
        faults = [finding["name"] for finding in findings if finding["severity"] == "fault"]
        assert faults == expected, (kind, findings)
        assert not [finding for finding in findings if finding["name"] == "not judged"], findings
    # Nothing is changed by the watching.
    for kind in ("plain", "accumulated"):
        for rank in range(2):
            one, other = (torch.load(tmp_path / name / f"{kind}.{kind}.{rank}") for name in ("bare", "watched"))
            assert all(map(torch.equal, one, other)), kind
