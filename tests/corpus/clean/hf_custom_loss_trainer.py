"""A Trainer subclass computes a summed token loss and divides it by num_items_in_batch, which the Trainer counts over the whole accumulation window, so unequal micro-batches are weighted by their tokens."""
import tempfile

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

torch.set_num_threads(1)
set_seed(18)
PAD = 0


class WeightedTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs.logits[:, :-1].flatten(0, 1)
        target = labels[:, 1:].flatten()
        if num_items_in_batch is None:
            num_items_in_batch = (target != -100).sum()
        loss = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum") / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


def example(i):
    g = torch.Generator().manual_seed(i)
    n, base = int(torch.randint(4, 15, (), generator=g)), int(torch.randint(1, 20, (), generator=g))
    return ((base + 2 * torch.arange(n)) % 20 + 1).tolist()


def collate(rows):
    width = max(map(len, rows))
    ids = torch.tensor([r + [PAD] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


config = LlamaConfig(vocab_size=21, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32, pad_token_id=PAD)
with tempfile.TemporaryDirectory() as tmp:
    args = TrainingArguments(output_dir=tmp, per_device_train_batch_size=8, gradient_accumulation_steps=4, num_train_epochs=4, learning_rate=8e-3, lr_scheduler_type="linear", warmup_steps=4,
                             max_grad_norm=1.0, logging_steps=5, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False)
    WeightedTrainer(model=LlamaForCausalLM(config), args=args, train_dataset=[example(i) for i in range(320)], data_collator=collate).train()
