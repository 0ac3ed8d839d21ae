import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import copy

class MomentumUpdater:
    def __init__(self, tau=0.98):
        self.cur_tau = tau

    @torch.no_grad()
    def update(self, online_net, momentum_net):
        for op, mp in zip(online_net.parameters(), momentum_net.parameters()):
            mp.mul_(self.cur_tau).add_(op, alpha=1 - self.cur_tau)

def encoder():
    return nn.Sequential(
        nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(),
        nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 4),
    )

mix = torch.randn(10, 4)

def scans(n):
    x = 3.0 + 2.0 * torch.randn(n, 10)
    return x, ((x - 3.0) @ mix).argmax(1)

student = encoder()
teacher = copy.deepcopy(student).eval()
for p in teacher.parameters():
    p.requires_grad_(False)
updater = MomentumUpdater()
optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
for it in range(300):
    x, y = scans(64)
    loss = F.cross_entropy(student(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    updater.update(student, teacher)
    if it % 100 == 99:
        print(f"iter {it + 1} loss {loss.item():.4f}")

student.eval()
x, y = scans(2000)
with torch.no_grad():
    s = (student(x).argmax(1) != y).float().mean().item()
    t = (teacher(x).argmax(1) != y).float().mean().item()
print(f"student {s:.4f} teacher {t:.4f}")
print(f"final error: {t:.4f}")
