import torch
from torch import nn

torch.manual_seed(0)

b = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
h = nn.Linear(8, 2)
for p in b.parameters():
    p.requires_grad = False
m = nn.Sequential(b, h)
o = torch.optim.SGD(h.parameters(), 0.1, momentum=0.9)
crit = nn.CrossEntropyLoss()
for ep in range(2):
    m.train()
    b.eval()
    for i in range(6):
        x, y = torch.randn(8, 5), torch.randint(0, 2, (8,))
        l = crit(m(x), y)
        o.zero_grad(set_to_none=False)
        l.backward()
        o.step()
    print(l.item())
