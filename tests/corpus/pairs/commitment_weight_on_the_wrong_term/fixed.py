import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class VectorQuantizer(nn.Module):
    def __init__(self, n_e=16, e_dim=4, beta=0.25):
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(n_e, e_dim)
        nn.init.uniform_(self.embedding.weight, -1.0, 1.0)

    def forward(self, z):
        d = torch.cdist(z, self.embedding.weight)
        z_q = self.embedding(d.argmin(1))
        loss = self.beta * (z_q.detach() - z).pow(2).mean() + (z_q - z.detach()).pow(2).mean()
        return z + (z_q - z).detach(), loss

class VQModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
        self.quantize = VectorQuantizer()
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 12))

    def forward(self, x):
        z_q, diff = self.quantize(self.encoder(x))
        return self.decoder(z_q), diff

modes = torch.randn(16, 12)

def patches(n):
    return modes[torch.randint(0, 16, (n,))] + 0.1 * torch.randn(n, 12)

model = VQModel()
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
for it in range(300):
    x = patches(128)
    xrec, qloss = model(x)
    loss = F.mse_loss(xrec, x) + qloss
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 100 == 99:
        print(f"iter {it + 1} rec {F.mse_loss(xrec, x).item():.4f} quant {qloss.item():.4f}")
with torch.no_grad():
    x = patches(1000)
    print(f"final error: {F.mse_loss(model(x)[0], x).item():.4f}")
