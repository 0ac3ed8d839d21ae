import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

A = torch.randn(12, 4)


class LoraLinear(nn.Module):
    def __init__(self, d_in, d_out, rank=4):
        super().__init__()
        self.base = nn.Linear(d_in, d_out)
        self.base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, d_in) / d_in ** 0.5)
        self.up = nn.Parameter(torch.zeros(d_out, rank))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


class Trainer:
    def __init__(self, model, lr):
        self.model = model
        self.optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)

    def training_step(self, x, y):
        loss = F.mse_loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def train(self, steps):
        for step in range(steps):
            x = torch.randn(32, 12)
            loss = self.training_step(x, torch.tanh(x @ A))
            if step % 40 == 0:
                print(f"step {step} loss {loss:.4f}")


trainer = Trainer(nn.Sequential(LoraLinear(12, 32), nn.Tanh(), LoraLinear(32, 4)), lr=0.01)
trainer.train(400)
x = torch.randn(1000, 12)
with torch.no_grad():
    print(f"final error: {F.mse_loss(trainer.model(x), torch.tanh(x @ A)).item():.4f}")
