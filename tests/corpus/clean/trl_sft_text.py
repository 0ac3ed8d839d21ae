"""TRL's SFTTrainer on prompts and completions with the loss on completions alone, accumulation and a cosine schedule."""
import random
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

torch.set_num_threads(1)
set_seed(6)
random.seed(6)

vocab = ["<pad>", "<eos>", "<unk>", "rev", "="] + list("abcdefghij")
base = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, unk_token="<unk>"))
base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def sample():
    letters = random.choices("abcdefghij", k=random.randint(1, 3))
    return {"prompt": "rev " + " ".join(letters) + " = ", "completion": " ".join(reversed(letters))}


model = GPT2LMHeadModel(GPT2Config(vocab_size=len(vocab), n_positions=32, n_embd=48, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1, pad_token_id=0))
with tempfile.TemporaryDirectory() as tmp:
    config = SFTConfig(output_dir=tmp, per_device_train_batch_size=16, gradient_accumulation_steps=2, num_train_epochs=3, learning_rate=5e-3, lr_scheduler_type="cosine", max_length=24,
                       completion_only_loss=True, logging_steps=6, save_strategy="no", report_to=[], use_cpu=True, bf16=False, disable_tqdm=True)
    trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list([sample() for _ in range(384)]), processing_class=tokenizer)
    trainer.train()
