import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

centre = torch.randn(8, 12)


def sample(n):
    y = torch.randint(0, 8, (n,))
    return centre[y] + 1.2 * torch.randn(n, 12), F.one_hot(y, 8).float()


def mixup(x, y):
    share = 0.3 + 0.4 * torch.rand(len(x), 1)
    order = torch.randperm(len(x))
    mixed = share * x + (1 - share) * x[order]
    return mixed, share * y + (1 - share) * y[order]


model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 8))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
x, y = sample(400)
for epoch in range(20):
    for picks in torch.randperm(400).split(50):
        inputs, targets = mixup(x[picks], y[picks])
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1} loss {loss.item():.4f}")
with torch.no_grad():
    x, y = sample(3000)
    print(f"final error: {(model(x).argmax(1) != y.argmax(1)).float().mean().item():.4f}")
