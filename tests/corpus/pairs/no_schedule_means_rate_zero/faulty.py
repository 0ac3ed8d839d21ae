import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class RNN_AE(nn.Module):
    def __init__(self, features=4, hidden=24):
        super().__init__()
        self.enc = nn.GRU(features, hidden, batch_first=True)
        self.dec = nn.GRU(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, features)

    def forward(self, x):
        _, h = self.enc(x)
        steps = h[-1].unsqueeze(1).expand(-1, x.size(1), -1)
        return self.out(self.dec(steps)[0])

def trajectories(n, length=10):
    t = torch.arange(length) / length
    phase = torch.rand(n, 1, 4) * 6.28
    return torch.sin(6.28 * t[None, :, None] + phase)

def train_model(cfg):
    data, test = trajectories(128), trajectories(256)
    model = RNN_AE()
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg["learning_rate"])
    if cfg["scheduler"]:
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=cfg["step"], gamma=0.2)
    else:
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=cfg["step"], gamma=0)
    for epoch in range(1, cfg["max_epochs"] + 1):
        total = 0.0
        for batch in data[torch.randperm(128)].split(32):
            loss = F.mse_loss(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        scheduler.step()
        if epoch % 10 == 0:
            print(f"Epoch: {epoch} Train: {total / 4:.4f}")
    with torch.no_grad():
        return F.mse_loss(model(test), test).item()

error = train_model({"learning_rate": 5e-3, "scheduler": False, "step": 10, "max_epochs": 60})
print(f"final error: {error:.4f}")
