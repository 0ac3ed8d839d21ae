"""Encoder-decoder training by hand with labels masked by -100, where each window's micro-batches are weighted by their share of the window's target tokens, so a ragged tail is exact too."""
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import T5Config, T5ForConditionalGeneration, get_cosine_schedule_with_warmup, set_seed
import transformers

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
set_seed(8)

PAD, EOS, N, MICRO, WINDOW, EPOCHS = 0, 1, 360, 16, 3, 8
cfg = T5Config(vocab_size=16, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0.0, decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=EOS)
model = T5ForConditionalGeneration(cfg)

lengths = torch.randint(2, 6, (N,))
src = torch.randint(2, 16, (N, 6))
src[torch.arange(6) > lengths[:, None]] = PAD
src[torch.arange(N), lengths] = EOS
labels = src.masked_fill(src == PAD, -100)


def micro_batches(order):
    for rows in order.split(MICRO):
        yield {"input_ids": src[rows], "attention_mask": (src[rows] != PAD).long(), "labels": labels[rows]}


n_micro = -(-N // MICRO)
n_updates = EPOCHS * -(-n_micro // WINDOW)
optim = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
sched = get_cosine_schedule_with_warmup(optim, num_warmup_steps=4, num_training_steps=n_updates)
for epoch in range(EPOCHS):
    batches = list(micro_batches(torch.randperm(N)))
    nll = tokens_seen = 0
    for start in range(0, len(batches), WINDOW):
        window = batches[start:start + WINDOW]
        tokens = sum((b["labels"] != -100).sum().item() for b in window)
        for b in window:
            share = (b["labels"] != -100).sum().item() / tokens
            loss = model(**b).loss
            (loss * share).backward()
            nll += loss.item() * share * tokens
        clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        sched.step()
        optim.zero_grad()
        tokens_seen += tokens
    print(f"epoch {epoch + 1}: token loss {nll / tokens_seen:.4f}, lr {sched.get_last_lr()[0]:.2e}")
