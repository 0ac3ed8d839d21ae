import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class N(nn.Module):
    def __init__(s):
        super().__init__()
        s.e = nn.EmbeddingBag(30, 6, sparse=True)
        s.l = nn.Linear(6, 2)

    def forward(s, x):
        return s.l(s.e(x))


m = N()
a = torch.optim.SparseAdam(m.e.parameters(), 1e-2)
b = torch.optim.Adam(m.l.parameters(), 1e-2)
for i in range(12):
    x, y = torch.randint(0, 30, (8, 4)), torch.randint(0, 2, (8,))
    l = F.cross_entropy(m(x), y)
    a.zero_grad()
    b.zero_grad()
    l.backward()
    a.step()
    b.step()
print(l.item())
