import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
c = torch.compile(m, backend="eager")
o = torch.optim.SGD(m.parameters(), 0.05)
for i in range(8):
    x = torch.randn(8, 5)
    l = F.mse_loss(c(x), x.sum(1, keepdim=True))
    o.zero_grad()
    l.backward()
    o.step()
print(l.item())
