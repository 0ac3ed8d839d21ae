import os
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

centres = 2 * torch.randn(12, 10)


def sample(n):
    y = torch.randint(0, 12, (n,))
    return centres[y] + torch.randn(n, 10), y


class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 12))

    def forward(self, x):
        return self.body(x)


model, criterion = Scorer(), nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(5):
    for _ in range(30):
        x, y = sample(32)
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
with torch.no_grad():
    x, y = sample(2000)
    print(f"final error: {criterion(model(x), y).item():.4f}")
