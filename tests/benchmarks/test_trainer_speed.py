"""What the callbacks cost: CPU time of a fit with one over the same fit without, both in turn in one process."""

from __future__ import annotations

import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from rislab.checkup import lightning as for_lightning
from rislab.checkup import transformers as for_transformers

TARGET, ROUNDS = 1.15, 3


class Module(lightning.LightningModule):
    """A classifier of 1.1 million weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def lightning_fit(watched: bool, folder: Path, steps: int) -> float:
    """CPU seconds of some steps of 128 samples."""
    data = TensorDataset(torch.randn(128 * steps, 512), torch.randint(10, (128 * steps,)))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0,
        callbacks=[for_lightning.CheckupCallback()] if watched else [],
    )  # fmt: skip
    began = time.process_time()
    trainer.fit(Module(), DataLoader(data, 128))
    return time.process_time() - began


def transformers_fit(watched: bool, folder: Path, steps: int) -> float:
    """CPU seconds of some steps of 8 sequences of 64 tokens, through four layers of width 128."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 1000, "n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4}
    rows = torch.randint(3, 1000, (8 * steps, 64), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=8, num_train_epochs=1, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, logging_steps=100,
    )  # fmt: skip
    trainer = Trainer(
        GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)), arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=[for_transformers.CheckupCallback()] if watched else [],
    )  # fmt: skip
    began = time.process_time()
    trainer.train()
    return time.process_time() - began


@pytest.mark.parametrize(
    ("fit", "steps"), [(lightning_fit, 300), (transformers_fit, 150)], ids=("lightning_fit", "transformers_fit")
)
def test_a_watched_fit(benchmark: Any, fit: Any, steps: int, tmp_path: Path) -> None:
    """Short fits cost the most for each of their steps, since the first ones are looked at more closely."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for watched in (True, False):
            fit(watched, tmp_path, 3)
        pairs = [(fit(True, tmp_path, steps), fit(False, tmp_path, steps)) for _ in range(ROUNDS)]
    ratios = sorted(mine / theirs for mine, theirs in pairs)
    benchmark.extra_info |= {"ratio": statistics.median(ratios), "target": TARGET}
    benchmark.pedantic(lambda: None, rounds=1)
    watched, bare = (min(column) for column in zip(*pairs, strict=True))
    print(
        f"\n{benchmark.name}: {watched:.2f} s of CPU against {bare:.2f} s; ratio {statistics.median(ratios):.3g} "
        f"({ratios[0]:.3g}–{ratios[-1]:.3g}), target ≤ {TARGET}"
    )
