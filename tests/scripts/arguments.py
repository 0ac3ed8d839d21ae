import argparse

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--k", type=int, default=4)
p.add_argument("--bad", default="")
a = p.parse_args()
torch.manual_seed(0)
m = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
o = torch.optim.SGD(m.parameters(), 0.1)
x = torch.randn(64, 4)
y = torch.randint(0, 3, (64,))
for ep in range(2):
    run = 0
    o.zero_grad()
    for i in range(8):
        loss = nn.functional.cross_entropy(m(x[i * 8 : i * 8 + 8]), y[i * 8 : i * 8 + 8])
        run += loss.item()
        if a.bad != "div":
            loss = loss / a.k
        if a.bad == "zero":
            o.zero_grad()
        loss.backward()
        if (i + (a.bad != "off")) % a.k == 0:
            o.step()
            o.zero_grad()
    print(ep, run / 8)
