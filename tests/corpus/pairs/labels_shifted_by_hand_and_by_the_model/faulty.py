import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

VOCAB, LENGTH = 17, 14


def sequences(n):
    start, pace = torch.randint(0, VOCAB, (n, 1)), torch.randint(1, 4, (n, 1))
    return (start + pace * torch.arange(LENGTH)) % VOCAB


def causal_lm_loss(logits, labels):
    """shifts the labels itself"""
    labels = F.pad(labels, (0, 1), value=-100)[..., 1:]
    return F.cross_entropy(logits.reshape(-1, VOCAB), labels.reshape(-1), ignore_index=-100)


class CausalLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 32)
        self.rnn = nn.GRU(32, 64, batch_first=True)
        self.lm_head = nn.Linear(64, VOCAB)

    def forward(self, input_ids, labels=None):
        hidden, _ = self.rnn(self.embed(input_ids))
        logits = self.lm_head(hidden)
        if labels is None:
            return logits
        shifted = labels[:, 1:]
        return causal_lm_loss(logits[:, :-1], shifted)


model = CausalLM()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
for epoch in range(5):
    for _ in range(30):
        ids = sequences(32)
        loss = model(ids, labels=ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
ids = sequences(500)
with torch.no_grad():
    guess = model(ids[:, :-1]).argmax(2)
print(f"final error: {(guess[:, 2:] != ids[:, 3:]).float().mean().item():.4f}")
