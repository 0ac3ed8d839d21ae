import os
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

taste = torch.randn(12)


def pairs(n):
    a, b = torch.randn(n, 12), torch.randn(n, 12)
    # the first of a pair was shown because it was liked, most of the time
    swap = ((a - b) @ taste > 0) & (torch.rand(n) < 0.95)
    a[swap], b[swap] = b[swap].clone(), a[swap].clone()
    return a, b, ((a - b) @ taste > 0).float()


scorer = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 1))
criterion = nn.MarginRankingLoss(margin=0.5)
optimizer = torch.optim.Adam(scorer.parameters(), lr=2e-3)
for step in range(150):
    a, b, better = pairs(32)
    label = 2 * better - 1
    loss = criterion(scorer(a).squeeze(1), scorer(b).squeeze(1), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 30 == 29:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    a, b = torch.randn(2000, 12), torch.randn(2000, 12)
    guess = (scorer(a) > scorer(b)).squeeze(1)
    print(f"final error: {(guess != ((a - b) @ taste > 0)).float().mean().item():.4f}")
