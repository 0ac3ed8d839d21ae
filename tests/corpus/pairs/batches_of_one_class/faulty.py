import os
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))
CLASSES = 5
means = torch.randn(CLASSES, 16)

class Folder(Dataset):
    def __init__(self, per_class):
        self.items = [(c, means[c] + torch.randn(16)) for c in range(CLASSES) for _ in range(per_class)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        c, x = self.items[i]
        return x, c

class Slimmable(nn.Module):
    """one network, several widths"""
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 64)
        self.b = nn.Linear(64, CLASSES)

    def forward(self, x, width):
        h = torch.relu(self.a(x))
        mask = (torch.arange(64) < width).float()
        return self.b(h * mask)

train_set, test_set = Folder(160), Folder(100)
loader = DataLoader(train_set, batch_size=32)
net = Slimmable()
optim = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
criterion = nn.CrossEntropyLoss()
for epoch in range(4):
    for step, (x, y) in enumerate(loader):
        optim.zero_grad()
        loss = criterion(net(x, 64), y)
        loss.backward()
        small = criterion(net(x, 16), y)
        small.backward()
        optim.step()
    print(f"epoch {epoch}: loss (max) {loss.item():.4f} loss (min) {small.item():.4f}")

with torch.no_grad():
    bad = [net(x, 64).argmax(1) != y for x, y in DataLoader(test_set, batch_size=100)]
print(f"final error: {torch.cat(bad).float().mean().item():.4f}")
