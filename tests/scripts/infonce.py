import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Linear(6, 4)
o = torch.optim.Adam(m.parameters(), 1e-2)
for i in range(12):
    x = torch.randn(8, 6)
    a = F.normalize(m(x), dim=1)
    b = F.normalize(m(x + 0.1 * torch.randn(8, 6)), dim=1)
    s = a @ b.T / 0.1
    t = torch.arange(8)
    l = (F.cross_entropy(s, t) + F.cross_entropy(s.T, t)) / 2
    o.zero_grad()
    l.backward()
    o.step()
print(l.item())
