import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

basis = torch.randn(3, 20)

def cells(n):
    return torch.randn(n, 3) @ basis + 0.1 * torch.randn(n, 20)

class VAE(nn.Module):
    def __init__(self, features=20, latent=3):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 48), nn.ReLU())
        self.mean = nn.Linear(48, latent)
        self.var = nn.Linear(48, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 48), nn.ReLU(), nn.Linear(48, features))

    def forward(self, x):
        h = self.encoder(x)
        mu, logvar = self.mean(h), self.var(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.decoder(z), mu, logvar

def elbo(predicted, target, mu, logvar):
    recon = F.mse_loss(predicted, target)
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return recon + kl, recon, kl

train = cells(1024)
vae = VAE()
opt = torch.optim.Adam(vae.parameters(), lr=3e-3)
for epoch in range(25):
    for chunk in train[torch.randperm(1024)].split(64):
        predicted, mu, logvar = vae(chunk)
        loss, recon, kl = elbo(predicted, chunk, mu, logvar)
        opt.zero_grad()
        loss.backward()
        opt.step()
    if epoch % 5 == 4:
        print(f"epoch {epoch}: recon {recon.item():.4f} kl {kl.item():.5f}")
with torch.no_grad():
    x = cells(500)
    print(f"final error: {(vae(x)[0] - x).pow(2).sum(1).mean().item():.4f}")
