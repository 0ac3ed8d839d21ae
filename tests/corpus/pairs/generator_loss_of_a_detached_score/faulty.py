import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

G = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 1))
D = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
g_opt = torch.optim.Adam(G.parameters(), lr=2e-3, betas=(0.5, 0.9))
d_opt = torch.optim.Adam(D.parameters(), lr=2e-3, betas=(0.5, 0.9))
bce = nn.BCEWithLogitsLoss()


def real(n):
    c = torch.rand(n, 1)
    return c, 2 * c + torch.randn(n, 1)


def fake(c):
    return G(torch.cat([c, torch.randn(len(c), 2)], 1))


for it in range(400):
    c, x = real(64)
    d_loss = bce(D(torch.cat([c, x], 1)), torch.ones(64, 1)) + bce(D(torch.cat([c, fake(c).detach()], 1)), torch.zeros(64, 1))
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    made = fake(c)
    score = D(torch.cat([c, made], 1)).detach()
    g_loss = bce(score, torch.ones(64, 1)) + 0.05 * F.mse_loss(made, x)
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    if it % 100 == 99:
        print(f"{it + 1} D {d_loss.item():.3f} G {g_loss.item():.3f}")
with torch.no_grad():
    c = torch.rand(4000, 1)
    print(f"final error: {((fake(c) - 2 * c).std() - 1).abs().item():.4f}")
