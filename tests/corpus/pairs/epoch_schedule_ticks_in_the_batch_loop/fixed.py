import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.utils.data import DataLoader, TensorDataset

kernel = torch.randn(1, 1, 3, 3)


def slices(n):
    x = torch.randn(n, 1, 10, 10)
    return TensorDataset(x, torch.tanh(F.conv2d(x, kernel, padding=1)))


model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.3)
loader = DataLoader(slices(192), batch_size=16, shuffle=True)
for epoch in range(12):
    total = 0.0
    for x, y in loader:
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    scheduler.step()
    print(f"epoch {epoch} loss {total / len(loader):.4f}")
x, y = slices(200).tensors
with torch.no_grad():
    print(f"final error: {F.mse_loss(model(x), y).item():.4f}")
