import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
o = torch.optim.Adam(m.parameters(), 1e-2)
for ep in range(20):
    s, s2 = torch.randn(16, 4), torch.randn(16, 4)
    a = torch.randint(0, 2, (16, 1))
    q = m(s).gather(1, a)
    with torch.no_grad():
        t = torch.randn(16, 1) + 0.9 * m(s2).max(1, keepdim=True).values
    l = F.smooth_l1_loss(q, t)
    o.zero_grad()
    l.backward()
    torch.nn.utils.clip_grad_value_(m.parameters(), 0.05)
    o.step()
print(l.item())
