import os
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

mix = torch.randn(2, 6)


def data(n):
    return torch.randn(n, 2) @ mix + 0.5 * torch.randn(n, 6)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))
        self.dec = nn.Linear(2, 6)

    def sample(self, mu, logvar):
        return mu + torch.randn_like(mu) * (0.5 * logvar).exp()

    def bound(self, x, sample):
        mu, logvar = self.enc(x).chunk(2, dim=1)
        error = (self.dec(sample(mu, logvar)) - x).pow(2).sum(1) / (2 * 0.25)
        divergence = 0.5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(1)
        return (error + divergence).mean()


vae = VAE()
optimizer = torch.optim.Adam(vae.parameters(), lr=5e-3)
for step in range(400):
    loss = vae.bound(data(64), vae.sample)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 99:
        print(f"step {step + 1} loss {loss.item():.3f}")
with torch.no_grad():
    exact = lambda mu, logvar: mu + torch.randn_like(mu) * (0.5 * logvar).exp()
    print(f"final error: {vae.bound(data(4000), exact).item():.4f}")
