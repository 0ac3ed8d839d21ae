import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

lift = torch.randn(3, 20)

def neural(n):
    behaviour = torch.randn(n, 3)
    view = lambda: torch.tanh(behaviour @ lift) + 0.2 * torch.randn(n, 20)
    return view(), view()

@torch.no_grad()
def true_infonce(pos_dist, neg_dist):
    return (neg_dist.logsumexp(1) - pos_dist).mean().item()

def infonce(pos_dist, neg_dist):
    with torch.no_grad():
        c, _ = neg_dist.max(dim=1, keepdim=True)
    pos_dist = pos_dist - c.squeeze(1)
    neg_dist = neg_dist - c
    align = (-pos_dist).mean()
    uniform = torch.logsumexp(neg_dist, dim=1).mean()
    return align + uniform, align, uniform

class Criterion(nn.Module):
    def __init__(self, temperature=0.1):
        super().__init__()
        self.temperature = temperature

    def distances(self, ref, pos):
        sim = ref @ pos.T / self.temperature
        return sim.diagonal(), sim

    def forward(self, ref, pos):
        return infonce(*self.distances(ref, pos))[0]

encoder = nn.Sequential(nn.Linear(20, 48), nn.GELU(), nn.Linear(48, 8))
embed = lambda x: F.normalize(encoder(x), dim=1)
criterion = Criterion()
optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
for step in range(1, 151):
    a, b = neural(64)
    loss = criterion(embed(a), embed(b))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step} infonce {loss.item():.4f}")

with torch.no_grad():
    a, b = neural(300)
    za, zb = embed(a), embed(b)
    miss = ((za @ zb.T).argmax(1) != torch.arange(300)).float().mean().item()
    gap = abs(criterion(za, zb).item() - true_infonce(*criterion.distances(za, zb)))
print(f"retrieval error {miss:.4f} loss off by {gap:.5f}")
print(f"final error: {gap:.5f}")
