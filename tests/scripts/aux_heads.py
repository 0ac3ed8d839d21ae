import torch
from torch import nn

torch.manual_seed(0)

t = nn.Linear(5, 8)
hs = nn.ModuleList([nn.Linear(8, 3) for _ in range(3)])
m = nn.ModuleDict({"t": t, "h": hs})
o = torch.optim.AdamW(m.parameters())
crit = nn.CrossEntropyLoss()
for i in range(12):
    x, y = torch.randn(8, 5), torch.randint(0, 3, (8,))
    z = torch.relu(t(x))
    l = sum(crit(h(z), y) for h in hs)
    o.zero_grad()
    l.backward()
    o.step()
print(l.item())
