"""Half of the blocks are recomputed by the reentrant kind, whose input requires grad because the embedding before it trains, and half by the other, and the random state is preserved so that dropout is the same in both passes."""
import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint

torch.set_num_threads(1)
torch.manual_seed(31)


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.ln = nn.LayerNorm(d)
        self.ff = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * d, d))

    def forward(self, x):
        return x + self.ff(self.ln(x))


class Net(nn.Module):
    def __init__(self, vocab=30, d=32, depth=4):
        super().__init__()
        self.tok = nn.Embedding(vocab, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.head = nn.Linear(d, 1)

    def forward(self, ids):
        h = self.tok(ids).mean(dim=1)
        for i, block in enumerate(self.blocks):
            if self.training:
                h = checkpoint(block, h, use_reentrant=(i % 2 == 0))
            else:
                h = block(h)
        return self.head(h).squeeze(-1)


ids = torch.randint(0, 30, (800, 6))
value = torch.randn(30)
target = value[ids].sum(dim=1) / 6 ** 0.5

model = Net()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
mse = nn.MSELoss()
for epoch in range(8):
    model.train()
    perm, seen, total = torch.randperm(700), 0, 0.0
    for batch in perm.split(50):
        optimizer.zero_grad()
        loss = mse(model(ids[batch]), target[batch])
        loss.backward()
        optimizer.step()
        total += loss.item() * batch.numel(); seen += batch.numel()
    model.eval()
    with torch.inference_mode():
        val = mse(model(ids[700:]), target[700:]).item()
    print(f"Epoch {epoch + 1}: train={total / seen:.4f}, val={val:.4f}")
