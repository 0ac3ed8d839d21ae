import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import copy

proto = torch.randn(4, 16) * 1.5

def views(n):
    y = torch.randint(0, 4, (n,))
    base = proto[y] + 0.7 * torch.randn(n, 16)
    return base + 0.5 * torch.randn(n, 16), base + 0.5 * torch.randn(n, 16), y

class BYOL(nn.Module):
    def __init__(self):
        super().__init__()
        self.online_encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 12))
        self.online_predictor = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12))
        self.target_encoder = copy.deepcopy(self.online_encoder)

    def forward(self, a, b):
        pa, pb = self.online_predictor(self.online_encoder(a)), self.online_predictor(self.online_encoder(b))
        with torch.no_grad():
            ta, tb = self.target_encoder(a), self.target_encoder(b)
        return 2 - F.cosine_similarity(pa, tb).mean() - F.cosine_similarity(pb, ta).mean()

    @torch.no_grad()
    def update_moving_average(self, beta=0.99):
        for o, t in zip(self.online_encoder.parameters(), self.target_encoder.parameters()):
            t.mul_(beta).add_(o, alpha=1 - beta)

learner = BYOL()
opt = torch.optim.Adam(learner.parameters(), lr=1e-3)
for step in range(200):
    a, b, _ = views(64)
    loss = learner(a, b)
    opt.zero_grad()
    loss.backward()
    opt.step()
    learner.update_moving_average()
    if step % 50 == 49:
        print(f"step {step + 1} loss {loss.item():.4f}")

with torch.no_grad():
    xa, _, ya = views(400)
    xb, _, yb = views(1000)
    za, zb = learner.online_encoder(xa), learner.online_encoder(xb)
    targets = F.one_hot(ya, 4).float()
    w = torch.linalg.lstsq(F.pad(za, (0, 1), value=1.0), targets).solution
    wrong = ((F.pad(zb, (0, 1), value=1.0) @ w).argmax(1) != yb).float().mean().item()
print(f"final error: {wrong:.4f}")
