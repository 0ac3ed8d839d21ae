import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import warnings
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
w = torch.randn(10)


def table(n):
    x = torch.randn(n, 10)
    return TensorDataset(x, torch.tanh(x @ w) + 0.5 * x[:, 0])


class TabularNet(nn.Module):
    def __init__(self, d_in, d_layers):
        super().__init__()
        sizes = [d_in, *d_layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, d_layers))
        self.head = nn.Linear(d_layers[-1], 1)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


model = TabularNet(10, [48, 48])
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for epoch in range(8):
    model.train()
    total = 0.0
    for x, y in DataLoader(table(640), batch_size=32, shuffle=True):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} loss {total / 20:.4f}")
model.eval()
x, y = table(1000).tensors
with torch.no_grad():
    print(f"final error: {(model(x).squeeze(1) - y).pow(2).mean().item():.4f}")
