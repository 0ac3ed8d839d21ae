import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

centre = torch.randn(2, 20)


def calls(n):
    y = (torch.rand(n) < 0.2).long()
    return centre[y] + torch.randn(n, 20), y


x, y = calls(500)
prior = 1 / torch.bincount(y).float()
sampler = WeightedRandomSampler(prior[y], 500)
loader = DataLoader(TensorDataset(x, y), batch_size=25, sampler=sampler)
model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(5):
    for inputs, labels in loader:
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
with torch.no_grad():
    x, y = calls(3000)
    wrong = (model(x).argmax(1) != y).float()
    print(f"final error: {(wrong[y == 0].mean() + wrong[y == 1].mean()).item() / 2:.4f}")
