"""A coupling flow maximises the exact likelihood with masks as buffers, stops early on the validation part, and restores a deep copy of the best state."""
import copy
import math
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(2)


class Coupling(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)
        self.st = nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 4))

    def forward(self, x):
        s, t = self.st(x * self.mask).chunk(2, dim=1)
        s = torch.tanh(s) * (1 - self.mask)
        t = t * (1 - self.mask)
        return x * s.exp() + t, s.sum(1)


class Flow(nn.Module):
    def __init__(self, depth=6):
        super().__init__()
        self.layers = nn.ModuleList(Coupling(torch.tensor([float(i % 2), float(1 - i % 2)])) for i in range(depth))

    def log_prob(self, x):
        logdet = 0.0
        for layer in self.layers:
            x, d = layer(x)
            logdet = logdet + d
        return logdet - 0.5 * x.square().sum(1) - math.log(2 * math.pi)


def spirals(n):
    r = torch.rand(n).sqrt() * 3
    sign = (torch.rand(n) < 0.5).float() * 2 - 1
    return torch.stack([sign * r * (1.5 * r).cos(), sign * r * (1.5 * r).sin()], 1) / 1.5 + 0.08 * torch.randn(n, 2)


train, val = spirals(2000), spirals(500)
flow = Flow()
opt = torch.optim.Adam(flow.parameters(), lr=2e-3)
best, best_state, bad = float("inf"), None, 0
for epoch in range(25):
    flow.train()
    nll = 0.0
    for xb in train[torch.randperm(len(train))].split(200):
        opt.zero_grad()
        loss = -flow.log_prob(xb).mean()
        loss.backward()
        opt.step()
        nll += loss.item() / 10
    flow.eval()
    with torch.no_grad():
        v = -flow.log_prob(val).mean().item()
    if v < best:
        best, best_state, bad = v, copy.deepcopy(flow.state_dict()), 0
    else:
        bad += 1
        if bad >= 5:
            print("stopped early")
            break
    if epoch % 4 == 0:
        print(f"epoch {epoch}: nll {nll:.3f} val {v:.3f}")
flow.load_state_dict(best_state)
with torch.no_grad():
    print(f"best val {best:.3f}, restored {-flow.log_prob(val).mean().item():.3f}")
