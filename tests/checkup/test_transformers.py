"""The callback of Hugging Face's Trainer on real trainings of tiny models, which are made from configurations."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from rislab.checkup.fit_watch import TrainingFaultError
from rislab.checkup.transformers import CheckupCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class Rows(torch.utils.data.Dataset[Any]):
    """Sequences of different lengths."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(8, 25, (count,), generator=generator).tolist()
        self.rows = [torch.randint(3, 64, (length,), generator=generator) for length in lengths]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Tensor:
        return self.rows[place]


def collate(rows: list[Tensor]) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.masked_fill(ids == 0, -100)}


def collate_classes(rows: list[Tensor]) -> dict[str, Tensor]:
    return collate(rows) | {"labels": torch.tensor([int(row[0]) % 2 for row in rows])}


def network(kind: Any = GPT2LMHeadModel) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return kind(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0))


def arguments(folder: Path, **given: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4,
        "num_train_epochs": 2, "learning_rate": 1e-3, "logging_steps": 2, "save_strategy": "no", "report_to": [],
        "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return TrainingArguments(**settings | given)


def mean_over_the_micro_batch(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def sum_over_the_items(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return cross_entropy(logits, targets, reduction="sum") / num_items_in_batch


class OwnMean(Trainer):
    """Ignores the count of items that it is handed."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        labels = inputs.pop("labels")
        return mean_over_the_micro_batch(model(**inputs), labels)


class DividedAgain(Trainer):
    """A model without a count of items, whose loss the Trainer divides by K."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        return super().compute_loss(model, inputs, False, **given) / self.args.gradient_accumulation_steps


class SumDividedAgain(Trainer):
    """A sum that is divided by the count of items, and by K, which nothing asks for."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        return super().compute_loss(model, inputs, return_outputs, **given) / self.args.gradient_accumulation_steps


class Preferred(Trainer):
    """As in trl's DPO: a loss that is none of torch's, a mean of the micro-batch, which the Trainer divides by K."""

    loss_is_scaled_for_ga = False
    divisor = 1

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        labels = inputs.pop("labels").clamp(min=0)
        chances = model(**inputs).logits.log_softmax(-1).gather(-1, labels[..., None]).sum((1, 2))
        return -logsigmoid(0.1 * (chances[::2] - chances[1::2])).mean() / self.divisor


class PreferredDividedAgain(Preferred):
    divisor = 4


class InEvaluationMode(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        model.eval()
        return super().compute_loss(model, inputs, return_outputs, **given)


class Broken(OwnMean):
    """Fails after two windows."""

    calls = 0

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        self.calls += 1
        if self.calls == 10:
            raise ZeroDivisionError("in the loss")
        return super().compute_loss(model, inputs, return_outputs, **given)


class Classes(GPT2ForSequenceClassification):
    """Its forward takes no count of items."""

    accepts_loss_kwargs = False


def trained(
    folder: Path, *callbacks: Any, trainer: Any = Trainer, count: int = 64, classes: bool = False, loss: Any = None,
    **given: Any,
) -> Any:  # fmt: skip
    one = trainer(
        model=network(Classes if classes else GPT2LMHeadModel), args=arguments(folder, **given),
        train_dataset=Rows(count), data_collator=collate_classes if classes else collate, callbacks=[*callbacks],
        compute_loss_func=loss,
    )  # fmt: skip
    one.train()
    return one


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"loss": mean_over_the_micro_batch}, "never divided"),
        ({"trainer": OwnMean}, "never divided"),
        ({"trainer": DividedAgain, "classes": True}, "divided twice"),
        ({"trainer": InEvaluationMode}, "eval never undone"),
        ({"trainer": SumDividedAgain}, "divided twice"),
        ({"trainer": PreferredDividedAgain}, "divided twice"),
    ],
    ids=["loss", "compute_loss", "divided again", "eval", "sum divided again", "preferences divided again"],
)
def test_a_fault_is_named(given: dict[str, Any], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = CheckupCallback()
    one = trained(tmp_path, callback, **given)
    faults = callback.findings.faults
    assert name in [finding.name for finding in faults][:2]
    assert f"FAULT   {faults[0].code}" in capsys.readouterr().out
    assert one.state.log_history[-1][f"checkup/{faults[0].code} {faults[0].name}"] == 1
    assert one.state.log_history[-1]["checkup/faults"] == len(faults)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"count": 61, "lr_scheduler_type": "cosine", "warmup_steps": 2},
        {"gradient_accumulation_steps": 1, "max_grad_norm": 0.0},
        {"loss": sum_over_the_items, "count": 61},
        {"classes": True, "max_grad_norm": 0.1},
        {"bf16": True, "label_smoothing_factor": 0.1},
        {"gradient_checkpointing": True},
        {"trainer": Preferred},
    ],
    ids=["as it comes", "ragged", "one", "own loss", "classes", "bf16", "checkpointing", "preferences"],
)
def test_a_correct_training_is_not_accused(given: dict[str, Any], tmp_path: Path) -> None:
    callback = CheckupCallback(every=1)
    trained(tmp_path, callback, **given)
    assert [str(finding) for finding in callback.findings if finding.severity != "note"] == []
    assert callback.findings.unjudged == []


@pytest.mark.slow
def test_a_resumed_training_is_not_accused(tmp_path: Path) -> None:
    """Optimiser, schedule and the place in the data come from the checkpoint, before the watch begins."""
    whole, callback = network(), CheckupCallback(every=1)
    states = []
    for callbacks in ([], [callback]):
        one = Trainer(
            model=network(), args=arguments(tmp_path / str(len(callbacks)), save_strategy="steps", save_steps=3),
            train_dataset=Rows(64), data_collator=collate, callbacks=[*callbacks],
        )  # fmt: skip
        one.train()
        one.model.load_state_dict(whole.state_dict())
        one.train(resume_from_checkpoint=str(tmp_path / str(len(callbacks)) / "checkpoint-6"))
        states.append(list(one.model.state_dict().values()))
    assert [str(finding) for finding in callback.findings if finding.severity != "note"] == []
    assert all(torch.equal(bare, watched) for bare, watched in zip(*states, strict=True))


RANKS = """
import pathlib, sys, warnings
import torch
warnings.simplefilter("ignore")
from tests.checkup.test_transformers import CheckupCallback, DividedAgain, trained
torch.set_num_threads(1)
trained(pathlib.Path(sys.argv[1]), CheckupCallback(), trainer=DividedAgain, classes=True, ddp_backend="gloo")
torch.distributed.destroy_process_group()
"""


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_the_first_of_two_processes_reports_for_both(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(f"import sys\nsys.path.append({str(Path(__file__).parents[2])!r})\n{RANKS}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "train.py", str(tmp_path)], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]  # fmt: skip
    first, second = (one.communicate()[0] for one in ranks)
    assert [one.returncode for one in ranks] == [0, 0]
    assert first.count("rislab checkup of Trainer.train(), 4 steps") == first.count("FAULT   C1 divided twice") == 1
    assert "(rank 0, 1)" in first and "rislab" not in second


@pytest.mark.slow
def test_a_training_is_bit_identical(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [CheckupCallback()], [CheckupCallback(every=1)]):
        one = trained(tmp_path, *callbacks)
        states.append((list(one.model.state_dict().values()), torch.get_rng_state()))
    (bare, state), *others = states
    for weights, after in others:
        assert all(torch.equal(one, other) for one, other in zip(bare, weights, strict=True))
        assert torch.equal(state, after)


@pytest.mark.slow
def test_what_is_read_from_the_trainer_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, CheckupCallback())
    text = capsys.readouterr().out
    assert "rislab checkup of Trainer.train(), 8 steps: AdamW over GPT2LMHeadModel: transformer.wte.weight" in text
    settings = "gradient_accumulation_steps 4, max_grad_norm 1.0, num_items_in_batch is handed to the loss"
    assert f"read from the trainer: {settings}\n" in text
    trained(tmp_path, CheckupCallback(), classes=True)
    assert "num_items_in_batch is not used\n" in capsys.readouterr().out


@pytest.mark.slow
def test_faults_are_raised_on_request(tmp_path: Path) -> None:
    callback = CheckupCallback(on_fault="raise")
    with pytest.raises(TrainingFaultError, match="C1 never divided") as caught:
        trained(tmp_path, callback, trainer=OwnMean)
    assert caught.value.findings == callback.findings
    assert "fix: add the losses of the items up, and divide the sum by num_items_in_batch" in str(caught.value)


@pytest.mark.slow
def test_an_exception_in_training_is_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Trainer tells no callback of it: the next forward, the next training, or the end of Python shows it."""
    callback = CheckupCallback(on_fault="raise")
    with pytest.raises(ZeroDivisionError, match="in the loss"):
        trained(tmp_path, callback, trainer=Broken)
    with torch.no_grad():
        network()(torch.ones(1, 4, dtype=torch.long))
    assert "never divided" in [finding.name for finding in callback.findings.faults]
    assert "2 steps until an error ended it" in capsys.readouterr().out
    module = torch.nn.modules.module
    assert not module._global_forward_hooks and not module._global_forward_pre_hooks


@pytest.mark.slow
def test_each_training_is_judged_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = CheckupCallback()
    with pytest.raises(ZeroDivisionError):
        trained(tmp_path, callback, trainer=Broken)
    one = trained(tmp_path, callback)
    assert not callback.findings.faults
    one.train()
    assert not callback.findings.faults
    assert capsys.readouterr().out.count("rislab checkup of Trainer.train()") == 3


@pytest.mark.slow
def test_two_callbacks_report_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = CheckupCallback(), CheckupCallback(on_fault="raise")
    with caplog.at_level(logging.CRITICAL):
        trained(tmp_path, first, second, trainer=OwnMean)
    text = capsys.readouterr().out
    assert text.count("FAULT   C1 never divided") == 1
    assert text.count("the trainer has another CheckupCallback before this one, which reports alone") == 1
    assert first.findings.faults and not second.findings


@pytest.mark.slow
def test_an_unknown_version_is_watched_by_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The module makes itself anew as its parts are imported.
    monkeypatch.setattr(importlib.import_module("transformers"), "__version__", "4.1.0")
    callback = CheckupCallback()
    trained(tmp_path, callback, trainer=OwnMean)
    assert (
        "transformers 4.1.0 is not known to work, 5.24 is: the settings of the trainer are not used"
        in capsys.readouterr().out
    )
    assert "never divided" in [finding.name for finding in callback.findings.faults]


@pytest.mark.slow
def test_the_users_own_callbacks_are_called(tmp_path: Path) -> None:
    """Logs of the findings go to whatever logs the Trainer's numbers."""
    logs: list[dict[str, Any]] = []

    class Keeper(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs_: Any = None, **given: Any) -> None:
            logs.append(given["logs"])

    trained(tmp_path, CheckupCallback(), Keeper())
    assert logs[-1]["checkup/faults"] == 0
