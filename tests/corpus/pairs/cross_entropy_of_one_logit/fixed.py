import os
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

direction = torch.randn(10)


def patients(n):
    x = torch.randn(n, 10)
    return x, (x @ direction > 0).long()


model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.BCEWithLogitsLoss()
for epoch in range(5):
    total = 0.0
    for _ in range(20):
        x, y = patients(32)
        out = model(x)
        loss = criterion(out, y.float().unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} loss {total / 20:.4f}")
with torch.no_grad():
    x, y = patients(2000)
    print(f"final error: {((model(x).squeeze(1) > 0).long() != y).float().mean().item():.4f}")
