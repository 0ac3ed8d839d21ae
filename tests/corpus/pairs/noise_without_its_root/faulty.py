import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

T = 30
beta = torch.linspace(1e-3, 0.25, T)
alpha = 1 - beta
bar = alpha.cumprod(0)
spread = 1 - bar
net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)


def real(n):
    return torch.sign(torch.randn(n, 1)) + 0.1 * torch.randn(n, 1)


def guess(x, t):
    return net(torch.cat([x, t.float()[:, None] / T], 1))


for step in range(500):
    x, t, noise = real(128), torch.randint(0, T, (128,)), torch.randn(128, 1)
    noised = bar[t].sqrt()[:, None] * x + spread[t][:, None] * noise
    loss = F.mse_loss(guess(noised, t), noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 99:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    x = torch.randn(1500, 1)
    for step in range(T - 1, -1, -1):
        t = torch.full((1500,), step)
        x = (x - beta[step] / (1 - bar[step]).sqrt() * guess(x, t)) / alpha[step].sqrt()
        if step:
            x = x + beta[step].sqrt() * torch.randn_like(x)
    print(f"final error: {(x.abs() - 1).abs().mean().item():.4f}")
