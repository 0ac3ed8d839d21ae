import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

centres = torch.randn(8, 1, 8, 8)


def images(n):
    y = torch.randint(0, 8, (n,))
    return centres[y] + 1.4 * torch.randn(n, 1, 8, 8), y


class SimpleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Linear(16 * 16, 8)

    def forward(self, x):
        out = self.features(x)
        out = F.dropout2d(out, 0.5, training=True)
        return self.classifier(out.flatten(1))


net = SimpleNet()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
criterion = nn.CrossEntropyLoss()
x_train, y_train = images(640)
for epoch in range(6):
    net.train()
    order = torch.randperm(640)
    for idx in order.split(32):
        opt.zero_grad()
        loss = criterion(net(x_train[idx]), y_train[idx])
        loss.backward()
        opt.step()
    print(f"epoch {epoch}: {loss.item():.4f}")

net.eval()
x, y = images(2000)
with torch.no_grad():
    print(f"final error: {(net(x).argmax(1) != y).float().mean().item():.4f}")
