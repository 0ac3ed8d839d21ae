import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

w_true = torch.randn(16, 1)


class EMAModel:
    """average of the weights, with a warm-up of its decay"""
    def __init__(self, parameters, decay=0.99):
        self.decay = decay
        self.optimization_step = 0
        self.shadow = [p.clone().detach() for p in parameters]

    @torch.no_grad()
    def step(self, parameters):
        self.optimization_step += 1
        value = (1 + self.optimization_step) / (10 + self.optimization_step)
        self.decay = one_minus = 1 - min(self.decay, value)
        for s, p in zip(self.shadow, parameters):
            s.sub_(one_minus * (s - p))

    def copy_to(self, parameters):
        for s, p in zip(self.shadow, parameters):
            p.data.copy_(s)


model = nn.Linear(16, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
ema = EMAModel(model.parameters())
for step in range(400):
    x = torch.randn(8, 16)
    y = x @ w_true + 2 * torch.randn(8, 1)
    loss = F.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema.step(model.parameters())
    if step % 100 == 0:
        print(f"step {step} loss {loss.item():.4f}")
ema.copy_to(model.parameters())
x = torch.randn(1000, 16)
with torch.no_grad():
    print(f"final error: {F.mse_loss(model(x), x @ w_true).item():.4f}")
