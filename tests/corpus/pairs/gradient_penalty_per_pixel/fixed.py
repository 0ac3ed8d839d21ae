import os
import torch
from torch import nn, autograd

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh())
    def forward(self, z):
        return self.net(z).view(-1, 1, 8, 8)

class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16 * 16, 1))
    def forward(self, x):
        return self.net(x)

G, D = Generator(), Critic()
g_opt = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
d_opt = torch.optim.Adam(D.parameters(), lr=2e-3, betas=(0.5, 0.999))
lambda_term = 10

def get_real(n):
    row = torch.arange(8).view(1, 1, 8, 1) / 4 - 1
    shift = torch.rand(n, 1, 1, 1)
    return torch.sin(3 * (row + shift)).expand(n, 1, 8, 8) + 0.05 * torch.randn(n, 1, 8, 8)

def input_gradient(real, fake, create_graph=True):
    eta = torch.rand(real.size(0), 1, 1, 1).expand_as(real)
    mixed = (eta * real + (1 - eta) * fake).requires_grad_(True)
    score = D(mixed)
    return autograd.grad(score, mixed, torch.ones_like(score), create_graph=create_graph)[0]

def gradient_penalty(real, fake):
    grads = input_gradient(real, fake)
    slopes = grads.flatten(1).norm(2, dim=1)
    return ((slopes - 1) ** 2).mean() * lambda_term

for it in range(120):
    for _ in range(3):
        real, fake = get_real(32), G(torch.randn(32, 8)).detach()
        d_loss = D(fake).mean() - D(real).mean() + gradient_penalty(real, fake)
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
    g_loss = -D(G(torch.randn(32, 8))).mean()
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    if it % 30 == 29:
        print(f"generator iter {it + 1} g_loss {g_loss.item():.3f} wasserstein {-d_loss.item():.3f}")

real, fake = get_real(256), G(torch.randn(256, 8)).detach()
norms = input_gradient(real, fake, create_graph=False).flatten(1).norm(dim=1)
print(f"final error: {(norms - 1).abs().mean().item():.4f}")
