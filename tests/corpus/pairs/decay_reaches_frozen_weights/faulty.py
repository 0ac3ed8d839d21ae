import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class OptimWrapper:
    """decoupled ('true') weight decay around any optimiser"""
    def __init__(self, opt, wd):
        self.opt, self.wd = opt, wd

    @property
    def lr(self):
        return self.opt.param_groups[0]["lr"]

    @torch.no_grad()
    def step(self):
        for group in self.opt.param_groups:
            for p in group["params"]:
                p.mul_(1 - self.wd * self.lr)
        self.opt.step()

    def zero_grad(self):
        self.opt.zero_grad()

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 48), nn.ReLU())
        self.head = nn.Linear(48, 3)

    def forward(self, points):
        return self.head(self.backbone(points).amax(1))

def clouds(n):
    y = torch.randint(0, 3, (n,))
    scale = torch.tensor([0.6, 1.0, 1.6])[y]
    return torch.randn(n, 20, 12) * scale[:, None, None], y

net = Detector()
for p in net.backbone.parameters():
    p.requires_grad = False
start = net.backbone[0].weight.clone()
optimizer = OptimWrapper(torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.99)), wd=0.1)
for it in range(300):
    points, y = clouds(32)
    loss = F.cross_entropy(net(points), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if it % 100 == 99:
        print(f"iter {it + 1} loss {loss.item():.4f}")
change = (net.backbone[0].weight - start).norm() / start.norm()
print(f"final error: {change.item():.4f}")
