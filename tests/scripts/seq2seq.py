import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

E = nn.GRU(6, 8)
D = nn.GRUCell(6, 8)
H = nn.Linear(8, 6)
oe = torch.optim.SGD(E.parameters(), 0.01)
od = torch.optim.SGD([*D.parameters(), *H.parameters()], 0.01)
crit = nn.NLLLoss()


def train(x, y):
    oe.zero_grad()
    od.zero_grad()
    _, h = E(x)
    h = h[0]
    l = 0
    inp = torch.zeros(x.shape[1], 6)
    for t in range(len(y)):
        h = D(inp, h)
        p = F.log_softmax(H(h), 1)
        l = l + crit(p, y[t])
        inp = F.one_hot(y[t], 6).float()
    l.backward()
    oe.step()
    od.step()
    return l.item() / len(y)


for i in range(12):
    L = train(torch.randn(4, 3, 6), torch.randint(0, 6, (3 + i % 3, 3)))
print(L)
