import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

weights = torch.randn(12, 24)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 24))

    def forward(self, x):
        return self.net(x)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Encoder()
        self.head = nn.Linear(24, 1)

    def forward(self, x):
        return self.head(self.model(x))


pretrained = Encoder()
optimizer = torch.optim.Adam(pretrained.parameters(), lr=5e-3)
for step in range(300):
    x = torch.randn(64, 12)
    loss = F.mse_loss(pretrained(x), torch.sin(x @ weights / 2))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
checkpoint = {name: value.clone() for name, value in pretrained.state_dict().items()}
model = Wrapped()
model.load_state_dict(checkpoint, strict=False)
x = torch.randn(40, 12)
make = lambda x: torch.sin(x @ weights / 2).mean(1, keepdim=True)
optimizer = torch.optim.Adam([{"params": model.head.parameters(), "lr": 2e-2}, {"params": model.model.parameters(), "lr": 1e-5}])
for epoch in range(100):
    loss = F.mse_loss(model(x), make(x))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"fine-tuned loss {loss.item():.4f}")
with torch.no_grad():
    new = torch.randn(2000, 12)
    print(f"final error: {F.mse_loss(model(new), make(new)).item():.5f}")
