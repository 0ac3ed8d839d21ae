import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
o = torch.optim.Adam(m.parameters())
K = 4
X, Y, Z = torch.randn(56, 5), torch.randint(0, 3, (56,)), torch.randn(56, 1)
for ep in range(3):
    n = 7
    o.zero_grad()
    for i in range(n):
        s = slice(i * 8, i * 8 + 8)
        p = m(X[s])
        l = 0.7 * F.cross_entropy(p[:, :3], Y[s]) + 0.3 * F.mse_loss(p[:, 3:], Z[s])
        size = min(K, n - (i // K) * K)
        (l / size).backward()
        if (i + 1) % K == 0 or i + 1 == n:
            o.step()
            o.zero_grad()
    print(l.item())
