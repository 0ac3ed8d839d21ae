"""Preference pairs train a small causal model by TRL's DPOTrainer, whose frozen reference copy is never stepped."""
import tempfile
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed
from trl import DPOConfig, DPOTrainer

torch.set_num_threads(1)
set_seed(0)
words = ["<pad>", "<eos>", "<unk>"] + [f"w{i}" for i in range(20)] + ["good", "bad"]
raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tok = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")

gen = torch.Generator().manual_seed(0)
pick = lambda n: [f"w{i}" for i in torch.randint(20, (n,), generator=gen)]
rows = []
for _ in range(64):
    rows.append({"prompt": " ".join(pick(4)) + " ", "chosen": " ".join(pick(2) + ["good"]), "rejected": " ".join(pick(2) + ["bad"])})

cfg = GPT2Config(vocab_size=len(words), n_positions=32, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1, pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
model, ref = GPT2LMHeadModel(cfg), GPT2LMHeadModel(cfg)
ref.load_state_dict(model.state_dict())
with tempfile.TemporaryDirectory() as out:
    args = DPOConfig(output_dir=out, per_device_train_batch_size=8, gradient_accumulation_steps=2, num_train_epochs=4, learning_rate=5e-3, beta=0.5, lr_scheduler_type="constant",
                     logging_steps=4, save_strategy="no", report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=16, disable_tqdm=True)
    DPOTrainer(model=model, ref_model=ref, args=args, train_dataset=Dataset.from_list(rows), processing_class=tok).train()
