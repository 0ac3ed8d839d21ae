"""A static-embedding sentence encoder learns from pairs by in-batch negatives under the library's own trainer and batch sampler without duplicates."""
import tempfile
import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.models import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import set_seed

torch.set_num_threads(1)
set_seed(5)
rng = np.random.default_rng(5)
a_words, b_words = [f"a{i}" for i in range(40)], [f"b{i}" for i in range(40)]
raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[UNK]"] + a_words + b_words)}, unk_token="[UNK]"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


def pairs(n):
    """A sentence in language a and its word-by-word translation into language b."""
    rows = rng.integers(0, 40, size=(n, 4))
    return {"anchor": [" ".join(a_words[j] for j in r) for r in rows], "positive": [" ".join(b_words[j] for j in r) for r in rows]}


model = SentenceTransformer(modules=[StaticEmbedding(raw, embedding_dim=32)], device="cpu")
held_out = pairs(200)


def retrieval():
    e = [model.encode(held_out[k], convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False) for k in ("anchor", "positive")]
    return ((e[0] @ e[1].T).argmax(1) == torch.arange(200)).float().mean().item()


print(f"recall@1 before {retrieval():.3f}")
with tempfile.TemporaryDirectory() as out:
    args = SentenceTransformerTrainingArguments(
        output_dir=out, num_train_epochs=3, per_device_train_batch_size=32, learning_rate=5e-2, warmup_steps=3, batch_sampler="no_duplicates",
        logging_steps=10, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )
    SentenceTransformerTrainer(model=model, args=args, train_dataset=Dataset.from_dict(pairs(800)), loss=MultipleNegativesRankingLoss(model)).train()
print(f"recall@1 after {retrieval():.3f}")
