import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

centres = 3 * torch.randn(4, 8)


def documents(n):
    y = torch.randint(0, 4, (n,))
    return centres[y] + torch.randn(n, 8), y


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x):
        return self.net(x).softmax(1)

    def training_step(self, x, y):
        return self.criterion(self.net(x), y)

    def validation_step(self, x, y):
        return self.criterion(self(x), y)


model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
held = documents(500)
for epoch in range(5):
    for _ in range(20):
        loss = model.training_step(*documents(32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        shown = model.validation_step(*held).item()
    model.train()
    print(f"epoch {epoch} loss {loss.item():.4f} validation {shown:.4f}")
with torch.no_grad():
    print(f"final error: {abs(F.cross_entropy(model.net(held[0]), held[1]).item() - shown):.4f}")
