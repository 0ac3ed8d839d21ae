import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.classifier = nn.Linear(64, 5)

    def forward(self, x):
        return self.classifier(self.features(x))

def task(seed):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(24, 5, generator=g)
    def draw(n):
        x = torch.randn(n, 24)
        return x, (x @ w).argmax(1)
    return draw

def freeze_layers(model, frozen=("features",)):
    for name, param in model.named_parameters():
        param.requires_grad = name.startswith(frozen)
    return model

def train(model, draw, steps, lr):
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=lr, momentum=0.9)
    for step in range(steps):
        x, y = draw(64)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1} loss {loss.item():.4f}")

@torch.no_grad()
def accuracy(model, draw):
    x, y = draw(1500)
    return (model(x).argmax(1) == y).float().mean().item()

base = int(os.environ.get("SEED", 0)) * 10
first, second = task(base + 1), task(base + 2)
model = Backbone()
train(model, first, 200, 0.05)
before = model.features[0].weight.clone()
print("first task", accuracy(model, first))
model.classifier = nn.Linear(64, 5)
train(freeze_layers(model), second, 200, 0.05)
print("second task", accuracy(model, second))
moved = (model.features[0].weight - before).norm() / before.norm()
print(f"final error: {moved.item():.4f}")
