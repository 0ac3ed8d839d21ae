import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.utils.data import DataLoader, TensorDataset

centres = 1.2 * torch.randn(10, 24)


def split(n):
    y = torch.randint(0, 10, (n,))
    return TensorDataset(centres[y] + torch.randn(n, 24), y)


train_loader = DataLoader(split(800), batch_size=20, shuffle=True)
test_loader = DataLoader(split(1000), batch_size=500)
model = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)


def train(epoch):
    model.train()
    optimizer.zero_grad()
    correct = 0
    for x, y in train_loader:
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        correct += (logits.argmax(1) == y).sum().item()
    print(f"epoch {epoch} train acc {correct / 800:.3f}")


def test():
    model.eval()
    with torch.no_grad():
        wrong = sum((model(x).argmax(1) != y).sum().item() for x, y in test_loader)
    return wrong / 1000


for epoch in range(5):
    train(epoch)
print(f"final error: {test():.4f}")
