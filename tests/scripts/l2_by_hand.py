import torch
from torch import nn

torch.manual_seed(0)

m = nn.Linear(5, 1)
o = torch.optim.SGD(m.parameters(), 0.05)
crit = nn.MSELoss()
for i in range(12):
    x = torch.randn(8, 5)
    l = crit(m(x), x.sum(1, keepdim=True))
    l = l + 1e-3 * sum(p.pow(2).sum() for p in m.parameters())
    o.zero_grad()
    l.backward()
    for p in m.parameters():
        p.grad.add_(torch.randn_like(p.grad) * 0.01)
    o.step()
print(l.item())
