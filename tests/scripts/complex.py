import torch
from torch import nn

torch.manual_seed(0)


class M(nn.Module):
    def __init__(s):
        super().__init__()
        s.w = nn.Parameter(torch.randn(5, 1, dtype=torch.cfloat))

    def forward(s, x):
        return x @ s.w


m = M()
o = torch.optim.Adam(m.parameters(), 1e-2)
for i in range(12):
    x = torch.randn(8, 5, dtype=torch.cfloat)
    l = (m(x) - x.sum(1, keepdim=True)).abs().square().mean()
    o.zero_grad()
    l.backward()
    o.step()
print(l.item())
