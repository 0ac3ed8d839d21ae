import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Linear(5, 1)
o = torch.optim.SGD(m.parameters(), 0.05)
for i in range(8):
    l = 0
    for k in range(4):
        x = torch.randn(8, 5)
        l = l + F.mse_loss(m(x), x.sum(1, keepdim=True)) / 4
    o.zero_grad()
    l.backward()
    o.step()
print(l.item())
