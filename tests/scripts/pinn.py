import torch
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
o = torch.optim.Adam(m.parameters(), 1e-2)
for i in range(15):
    x = torch.rand(16, 1, requires_grad=True)
    u = m(x)
    du = torch.autograd.grad(u, x, torch.ones_like(u), create_graph=True)[0]
    l = ((du + u) ** 2).mean() + (m(torch.zeros(1, 1)) - 1).pow(2).mean()
    o.zero_grad()
    l.backward()
    o.step()
print(l.item())
