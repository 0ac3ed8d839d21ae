import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

KEYS = torch.randn(12, 8)


def batch(n):
    context = torch.randn(n, 12, 1) + torch.zeros(n, 12, 8)
    which = torch.randint(0, 12, (n,))
    target = context[torch.arange(n), which, 0]
    return KEYS[which] + 0.1 * torch.randn(n, 8), torch.cat([context[..., :1], KEYS.expand(n, 12, 8)], 2), target


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, query, keys, values):
        scores = (self.k(keys) * self.q(query).unsqueeze(1)).sum(2)
        weights = self.softmax(scores)
        return (weights * values).sum(1)


attention = Attention(8)
optimizer = torch.optim.Adam(attention.parameters(), lr=0.01)
for epoch in range(10):
    for _ in range(25):
        query, memory, target = batch(32)
        out = attention(query, memory[..., 1:], memory[..., 0])
        loss = F.mse_loss(out, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} {loss.item():.4f}")
with torch.no_grad():
    errors = []
    for _ in range(200):
        query, memory, target = batch(1)
        errors.append(F.mse_loss(attention(query, memory[..., 1:], memory[..., 0]), target))
print(f"final error: {torch.stack(errors).mean().item():.4f}")
