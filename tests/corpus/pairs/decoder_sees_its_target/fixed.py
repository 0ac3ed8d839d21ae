import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))
V, T, D = 12, 16, 32

perm = torch.randperm(V)

def batch(n):
    # next token is a fixed function of the two last ones, sometimes random
    seq = torch.randint(0, V, (n, T + 1))
    for t in range(2, T + 1):
        nxt = perm[(seq[:, t - 1] + 3 * (seq[:, t - 2] % 2)) % V]
        seq[:, t] = torch.where(torch.rand(n) < 0.1, seq[:, t], nxt)
    return seq

class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(V, D)
        self.pos = nn.Embedding(T, D)
        layer = nn.TransformerEncoderLayer(D, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(D, V)

    def forward(self, ids):
        n = ids.size(1)
        h = self.tok(ids) + self.pos(torch.arange(n))
        mask = nn.Transformer.generate_square_subsequent_mask(n)
        h = self.encoder(h, mask=mask)
        return self.out(h)

model = LM()
optim = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(1, 161):
    seq = batch(32)
    logits = model(seq[:, :-1])
    loss = F.cross_entropy(logits.reshape(-1, V), seq[:, 1:].reshape(-1))
    optim.zero_grad()
    loss.backward()
    optim.step()
    if step % 40 == 0:
        print(f"step {step} loss {loss.item():.3f}")

model.eval()
ids = torch.randint(0, V, (128, 2))
wrong = []
with torch.no_grad():
    while ids.size(1) < T:
        nxt = model(ids)[:, -1].argmax(-1)
        truth = perm[(ids[:, -1] + 3 * (ids[:, -2] % 2)) % V]
        wrong.append((nxt != truth).float().mean())
        ids = torch.cat([ids, nxt[:, None]], 1)
print(f"final error: {torch.stack(wrong).mean().item():.4f}")
