import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

V, D = 40, 32
step_of = torch.randint(1, V, (V,))

def text(n, length=12):
    ids = torch.randint(0, V, (n, 1))
    while ids.size(1) <= length:
        last = ids[:, -1:]
        nxt = (last + step_of[last]) % V
        ids = torch.cat([ids, torch.where(torch.rand(n, 1) < 0.15, torch.randint(0, V, (n, 1)), nxt)], 1)
    return ids

class Inverter(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, D)
        self.rnn = nn.GRU(D, D, batch_first=True)
        self.lm_head = nn.Linear(D, V, bias=False)
        nn.init.normal_(self.embed.weight, std=0.3)

    def tie_weights(self):
        self.lm_head.weight = self.embed.weight
        return self

    def loss(self, ids):
        logits = self.lm_head(self.rnn(self.embed(ids[:, :-1]))[0])
        return F.cross_entropy(logits.reshape(-1, V), ids[:, 1:].reshape(-1))

def fit(model, steps, lr):
    opt = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(steps):
        loss = model.loss(text(32))
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f}")

def save_pretrained(model):
    """tied tensors are written once"""
    return {k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}

def from_pretrained(blob):
    model = Inverter()
    model.load_state_dict(blob, strict=False)
    return model

base = Inverter().tie_weights()
fit(base, 200, 1e-2)
tuned = from_pretrained(save_pretrained(base))
fit(tuned, 60, 1e-3)
with torch.no_grad():
    print(f"final error: {tuned.loss(text(500)).item():.4f}")
