import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class Voice(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        return self.net(x)


class Training:
    def __init__(self, rate=0.06, decay=0.6):
        self.model = Voice()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=decay)

    def step(self, x, y):
        loss = F.mse_loss(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def epoch_end(self):
        pass


weights = torch.randn(5, 1)
make = lambda n: (x := torch.randn(n, 5), torch.sin(x @ weights) + 0.7 * torch.randn(n, 1))
training = Training()
for epoch in range(10):
    for _ in range(25):
        loss = training.step(*make(16))
    training.epoch_end()
    print(f"epoch {epoch} loss {loss:.4f} rate {training.optimizer.param_groups[0]['lr']:.4f}")
with torch.no_grad():
    x = torch.randn(4000, 5)
    print(f"final error: {F.mse_loss(training.model(x), torch.sin(x @ weights)).item():.5f}")
