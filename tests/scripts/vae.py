import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class V(nn.Module):
    def __init__(s):
        super().__init__()
        s.a = nn.Linear(20, 16)
        s.mu = nn.Linear(16, 4)
        s.lv = nn.Linear(16, 4)
        s.d = nn.Linear(4, 20)

    def forward(s, x):
        h = torch.relu(s.a(x))
        mu, lv = s.mu(h), s.lv(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * lv)
        return torch.sigmoid(s.d(z)), mu, lv


def loss_function(r, x, mu, lv):
    return F.binary_cross_entropy(r, x, reduction="sum") + -0.5 * torch.sum(1 + lv - mu.pow(2) - lv.exp())


m = V()
o = torch.optim.Adam(m.parameters(), 1e-3)
x = torch.rand(52, 20)
for ep in range(2):
    m.train()
    t = 0
    for b in x.split(8):
        o.zero_grad()
        r, mu, lv = m(b)
        l = loss_function(r, b, mu, lv)
        l.backward()
        t += l.item()
        o.step()
    m.eval()
    with torch.no_grad():
        v = sum(loss_function(*(lambda q: (q[0], b, q[1], q[2]))(m(b))).item() for b in x.split(8))
    print(ep, t / 52, v)
