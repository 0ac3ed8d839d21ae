import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Linear(5, 1)
o = torch.optim.SGD(m.parameters(), 0.05)
for i in range(10):
    x = torch.randn(8, 5)
    y = x.sum(1, keepdim=True)
    F.mse_loss(m(x), y).backward()
    with torch.no_grad():
        n = torch.stack([p.grad.norm() for p in m.parameters()]).norm()
        es = [0.05 * p.grad / n for p in m.parameters()]
        for p, e in zip(m.parameters(), es):
            p.add_(e)
    o.zero_grad()
    l = F.mse_loss(m(x), y)
    l.backward()
    with torch.no_grad():
        for p, e in zip(m.parameters(), es):
            p.sub_(e)
    o.step()
    o.zero_grad()
print(l.item())
