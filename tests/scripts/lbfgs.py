import torch
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
o = torch.optim.LBFGS(m.parameters(), lr=0.5)
x = torch.randn(32, 5)
y = x.sum(1, keepdim=True)
crit = nn.MSELoss()
for i in range(5):

    def closure():
        o.zero_grad()
        l = crit(m(x), y)
        l.backward()
        return l

    print(o.step(closure).item())
