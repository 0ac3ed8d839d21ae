"""The README's examples for the trainers of others: three lines each, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from ignite.engine import create_supervised_trainer
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import rislab

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(10, 1)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(10, 3), nn.Softmax(-1))


def names(folder: Path) -> dict[str, Any]:
    """What the examples take as given."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 10)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :1]), 8)
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    rows = torch.randint(3, 64, (16, 8), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], save_strategy="no", num_train_epochs=1)
    # A Trainer leaves its last data loader there.
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)

    def train(_: Any) -> None:
        for given, wanted in loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.mse_loss(model(given), wanted))
                prepared.step()
                prepared.zero_grad()

    prepared = accelerator.prepare(optimizer)
    return {
        "lightning": lightning, "module": Module(), "loader": loader, "Trainer": Trainer,
        "arguments": arguments,
        "dataset": [{"input_ids": row, "labels": row} for row in rows], "NeuralNetClassifier": NeuralNetClassifier,
        "Network": Network, "inputs": inputs.numpy(), "classes": np.asarray(inputs[:, :3].argmax(1)),
        "engine": create_supervised_trainer(model, optimizer, nn.MSELoss()), "rislab": rislab, "train": train,
        "accelerator": accelerator, "optimizer": optimizer,
        "model": GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)), "regression": model,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("word", ["lightning", "transformers", "skorch", "ignite", "accelerator="])
def test_an_example_runs_and_has_three_lines(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (example,) = [block for block in blocks if f"rislab.checkup.{word} import" in block or f", {word}" in block]
    assert len([line for line in example.splitlines() if line]) == 3
    monkeypatch.chdir(tmp_path)
    given = names(tmp_path)
    if word in ("ignite", "accelerator="):
        given["model"] = given["regression"]
    exec(example, given)
    AcceleratorState._reset_state(reset_partial_state=True)
    text = capsys.readouterr().out
    assert "All checks passed." in text or "0 faults" in text or "nothing to report" in text
