import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

a = nn.Linear(5, 8)
b = nn.Linear(8, 1)
m = nn.Sequential(a, nn.ReLU(), b)
a.requires_grad_(False)
o = torch.optim.SGD(m.parameters(), 0.05)
for ep in range(4):
    if ep == 2:
        a.requires_grad_(True)
    for i in range(4):
        x = torch.randn(8, 5)
        l = F.mse_loss(m(x), x.sum(1, keepdim=True))
        o.zero_grad()
        l.backward()
        o.step()
print(l.item())
