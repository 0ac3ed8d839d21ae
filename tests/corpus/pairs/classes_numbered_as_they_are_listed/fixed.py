import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import random

names = ["airplane", "bonsai", "camera", "dolphin", "ewer"]
centre = dict(zip(names, 2 * torch.randn(5, 10)))
random.seed(int(os.environ.get("SEED", 0)) + 5)


def listdir():
    """in the order of the file system"""
    return random.sample(names, len(names))


class Events:
    def __init__(self, per_class):
        self.classes = sorted(listdir())
        self.x = torch.cat([centre[name] + torch.randn(per_class, 10) for name in self.classes])
        self.y = torch.arange(5).repeat_interleave(per_class)

    def batches(self, size):
        for picks in torch.randperm(len(self.y)).split(size):
            yield self.x[picks], self.y[picks]


train, test = Events(100), Events(40)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 5))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(5):
    for x, y in train.batches(50):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
model.eval()
with torch.no_grad():
    wrong = sum((model(x).argmax(1) != y).sum().item() for x, y in test.batches(40))
print(f"final error: {wrong / 200:.4f}")
