import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

centre = 3 * torch.randn(6, 16) + 2


def sample(n):
    y = torch.randint(0, 6, (n,))
    return centre[y] + 3.5 * torch.randn(n, 16), y


def mixup(x, y, share):
    x = x.mul_(share).add_((1 - share) * x.flip(0))
    return x, y, y.flip(0)


model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 6))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(300):
    x, y = sample(48)
    share = torch.rand(()).item() * 0.6
    x, y1, y2 = mixup(x, y, share)
    out = model(x)
    loss = share * F.cross_entropy(out, y1) + (1 - share) * F.cross_entropy(out, y2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 60 == 59:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    x, y = sample(3000)
    print(f"final error: {(model(x).argmax(1) != y).float().mean().item():.4f}")
