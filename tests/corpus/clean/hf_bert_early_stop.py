"""A small BERT is trained by the Trainer from a warmed-up linear schedule, evaluated every epoch, stopped early, and the best checkpoint is loaded at the end."""
import tempfile
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, EarlyStoppingCallback, Trainer, TrainingArguments, set_seed

torch.set_num_threads(1)
set_seed(1)


class Parity(Dataset):
    """Which of two marker tokens is more frequent?"""

    def __init__(self, n, seed):
        g = np.random.default_rng(seed)
        self.rows = g.integers(5, 20, size=(n, 12))
        mask = g.random((n, 12)) < 0.5
        which = np.where(g.random((n, 12)) < g.uniform(0.1, 0.9, size=(n, 1)), 3, 4)
        self.rows = np.where(mask, which, self.rows)
        self.y = ((self.rows == 3).sum(1) > (self.rows == 4).sum(1)).astype(int)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        ids = torch.tensor(np.concatenate([[1], self.rows[i]]))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": int(self.y[i])}


def metrics(p):
    return {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())}


config = BertConfig(vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=16, num_labels=2)
with tempfile.TemporaryDirectory() as out:
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=out, per_device_train_batch_size=32, per_device_eval_batch_size=64, num_train_epochs=6, learning_rate=3e-3, warmup_steps=10,
            weight_decay=0.01, eval_strategy="epoch", save_strategy="epoch", save_total_limit=1, load_best_model_at_end=True,
            metric_for_best_model="eval_loss", logging_strategy="epoch", disable_tqdm=True, report_to=[], use_cpu=True, seed=1,
        ),
        train_dataset=Parity(640, 0), eval_dataset=Parity(192, 1), compute_metrics=metrics,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    print("best", trainer.evaluate()["eval_accuracy"])
