import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class Gen(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, src):
        return self.f(src)

class Disc(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(10, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def forward(self, img, for_real):
        logit = self.f(img)
        return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, float(for_real)))

paint = torch.randn(6, 10)

def pairs(n):
    src = torch.randn(n, 6)
    return src, torch.tanh(src @ paint) + 0.3 * torch.randn(n, 10)

net, disc = Gen(), Disc()
opt_gen = torch.optim.AdamW(net.parameters(), lr=1e-4)
opt_disc = torch.optim.AdamW(disc.parameters(), lr=2e-3)
lambda_gan = 1.0
for step in range(1, 301):
    src, real = pairs(64)
    out = net(src)
    # generator
    loss_gen = 0.2 * F.mse_loss(out, real) + lambda_gan * disc(out, True)
    loss_gen.backward()
    opt_gen.step()
    opt_gen.zero_grad()
    # discriminator
    opt_disc.zero_grad()
    loss_disc = 0.5 * (disc(real, True) + disc(out.detach(), False))
    loss_disc.backward()
    opt_disc.step()
    opt_disc.zero_grad()
    if step % 100 == 0:
        print(f"{step}: gen {loss_gen.item():.3f} disc {loss_disc.item():.3f}")

with torch.no_grad():
    src, real = pairs(1500)
    mistakes = torch.cat([disc.f(real) < 0, disc.f(net(src)) > 0]).float().mean().item()
print(f"final error: {mistakes:.4f}")
