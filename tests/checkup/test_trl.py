"""The callback of Hugging Face's Trainer in those of trl, where trl is installed: it is part of no extra."""

from __future__ import annotations

import importlib.util
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from rislab.checkup.transformers import CheckupCallback

# A test that is not there is no test that is skipped.
if importlib.util.find_spec("trl") is not None:
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    WORDS = [f"w{place}" for place in range(40)]

    class SumOfMeans(SFTTrainer):
        """Ignores the count of items that it is handed."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
            logits, labels = model(input_ids=inputs["input_ids"]).logits[:, :-1], inputs["labels"][:, 1:]
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    class SupervisedInEvaluationMode(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *words: Any, **given: Any) -> Any:
            model.eval()
            return super().compute_loss(model, inputs, *words, **given)

    class PreferredDividedAgain(DPOTrainer):
        def compute_loss(self, *words: Any, **given: Any) -> Tensor:
            return super().compute_loss(*words, **given) / self.args.gradient_accumulation_steps

    class PreferredInEvaluationMode(DPOTrainer):
        def compute_loss(self, model: Any, *words: Any, **given: Any) -> Any:
            model.eval()
            return super().compute_loss(model, *words, **given)

    def trained(kind: Any, folder: Path) -> CheckupCallback:
        torch.manual_seed(0)
        vocabulary = {word: place for place, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        words = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        sizes = {"vocab_size": 44, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0))
        texts = [" ".join(WORDS[(7 * row + place) % 40] for place in range(8 + row % 9)) for row in range(33)]
        rows = {"text": texts[:32]}
        if issubclass(kind, DPOTrainer):
            rows = {"prompt": texts[:32], "chosen": texts[1:], "rejected": [text[::-1] for text in texts[1:]]}
        settings = {
            "output_dir": str(folder), "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4,
            "max_steps": 3, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
            "bf16": False,
        }  # fmt: skip
        config = DPOConfig if issubclass(kind, DPOTrainer) else SFTConfig
        callback = CheckupCallback(every=1)
        kind(
            model=model, args=config(**settings), train_dataset=Dataset.from_dict(rows), processing_class=words,
            callbacks=[callback], **({"ref_model": deepcopy(model)} if config is DPOConfig else {}),
        ).train()  # fmt: skip
        return callback

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            (SumOfMeans, "never divided"),
            (SupervisedInEvaluationMode, "eval never undone"),
            (PreferredDividedAgain, "divided twice"),
            (PreferredInEvaluationMode, "eval never undone"),
        ],
    )
    def test_a_fault_is_named(kind: Any, name: str, tmp_path: Path) -> None:
        findings = trained(kind, tmp_path).findings
        # DPO has no dropout, so that evaluation mode changes nothing.
        severe = findings.of("warning") if kind is PreferredInEvaluationMode else findings.faults
        assert name in [finding.name for finding in severe]

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [SFTTrainer, DPOTrainer])
    def test_a_correct_training_is_not_accused(kind: Any, tmp_path: Path) -> None:
        assert trained(kind, tmp_path).findings.faults == []
