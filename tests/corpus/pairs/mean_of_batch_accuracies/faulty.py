import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.utils.data import DataLoader, TensorDataset

direction = torch.randn(6)


def reviews(n):
    x = torch.randn(n, 6)
    return TensorDataset(x, (x @ direction + 0.8 * torch.randn(n) > 0).long())


train, test = reviews(300), reviews(196)
# the last four are of another kind: they come last in the list
test.tensors[1][-4:] = 1 - (test.tensors[0][-4:] @ direction > 0).long()
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(6):
    for x, y in DataLoader(train, batch_size=32, shuffle=True):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    accuracies, sizes = [], []
    with torch.no_grad():
        for x, y in DataLoader(test, batch_size=64):
            accuracies.append((model(x).argmax(1) == y).float().mean().item())
            sizes.append(len(y))
    model.train()
    shown = sum(accuracies) / len(accuracies)
    print(f"epoch {epoch} loss {loss.item():.4f} accuracy {shown:.4f}")
with torch.no_grad():
    x, y = test.tensors
    print(f"final error: {abs((model(x).argmax(1) == y).float().mean().item() - shown):.4f}")
