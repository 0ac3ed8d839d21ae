import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import warnings
from torch.utils.checkpoint import checkpoint

warnings.simplefilter("ignore")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)])
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x)


weights = torch.randn(8, 2)
make = lambda n: (x := torch.randn(n, 8), torch.sin(x @ weights).prod(1, keepdim=True))
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(300):
    x, y = make(64)
    loss = F.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 60 == 59:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    x, y = make(3000)
    print(f"final error: {F.mse_loss(model(x), y).item():.4f}")
