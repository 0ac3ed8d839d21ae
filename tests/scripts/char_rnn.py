import torch
from torch import nn

torch.manual_seed(0)


class R(nn.Module):
    def __init__(s):
        super().__init__()
        s.e = nn.Embedding(12, 8)
        s.r = nn.LSTM(8, 16)
        s.o = nn.Linear(16, 12)

    def forward(s, x, h):
        y, h = s.r(s.e(x), h)
        return s.o(y), h


m = R()
o = torch.optim.SGD(m.parameters(), 1.0)
crit = nn.CrossEntropyLoss()
d = torch.randint(0, 12, (41, 4))
for ep in range(2):
    h = None
    for i in range(0, 40, 5):
        n = min(5, 40 - i)
        x, y = d[i : i + n], d[i + 1 : i + 1 + n]
        if h is not None:
            h = tuple(v.detach() for v in h)
        m.zero_grad()
        out, h = m(x, h)
        l = crit(out.view(-1, 12), y.reshape(-1))
        l.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 0.25)
        o.step()
    print(l.item())
