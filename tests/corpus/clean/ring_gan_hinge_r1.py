"""Two discriminator steps on detached fakes alternate with one generator step, the lazy R1 penalty is multiplied by its interval, and each optimiser is zeroed right before its own backward."""
import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm as sn

torch.set_num_threads(1)
torch.manual_seed(1234)
LATENT, BS, R1_EVERY, R1_GAMMA = 8, 128, 4, 0.2


def real_batch(n):
    k = torch.randint(0, 8, (n,)) * (2 * math.pi / 8)
    return torch.stack([k.cos(), k.sin()], 1) * 2 + 0.05 * torch.randn(n, 2)


G = nn.Sequential(nn.Linear(LATENT, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2))
D = nn.Sequential(sn(nn.Linear(2, 64)), nn.LeakyReLU(0.2), sn(nn.Linear(64, 64)), nn.LeakyReLU(0.2), sn(nn.Linear(64, 1)))
G_ema = copy.deepcopy(G).eval().requires_grad_(False)
opt_g = torch.optim.Adam(G.parameters(), lr=5e-4, betas=(0.0, 0.99))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.0, 0.99))

d_it = 0
for it in range(400):
    for _ in range(2):
        x = real_batch(BS)
        with torch.no_grad():
            fake = G(torch.randn(BS, LATENT))
        opt_d.zero_grad()
        loss_d = F.relu(1 - D(x)).mean() + F.relu(1 + D(fake)).mean()
        loss_d.backward()
        if d_it % R1_EVERY == 0:
            xr = real_batch(BS).requires_grad_(True)
            (g,) = torch.autograd.grad(D(xr).sum(), xr, create_graph=True)
            (R1_EVERY * R1_GAMMA / 2 * g.square().sum(1).mean()).backward()
        opt_d.step()
        d_it += 1

    D.requires_grad_(False)
    opt_g.zero_grad()
    loss_g = -D(G(torch.randn(BS, LATENT))).mean()
    loss_g.backward()
    opt_g.step()
    D.requires_grad_(True)

    with torch.no_grad():
        for a, b in zip(G_ema.parameters(), G.parameters()):
            a.lerp_(b, 0.02)
    if it % 100 == 99:
        with torch.no_grad():
            pts = G_ema(torch.randn(512, LATENT))
        print(f"it {it + 1}  D {loss_d.item():.3f}  G {loss_g.item():.3f}  radius {pts.norm(dim=1).mean():.2f} (real 2.00)")
