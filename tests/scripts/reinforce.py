import torch
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
o = torch.optim.Adam(m.parameters(), 1e-2)
for ep in range(10):
    lp = []
    R = []
    for t in range(5):
        d = torch.distributions.Categorical(logits=m(torch.randn(1, 4)))
        a = d.sample()
        lp.append(d.log_prob(a))
        R.append(float(a))
    r = torch.tensor(R)
    r = (r - r.mean()) / (r.std() + 1e-6)
    l = torch.stack([-p * q for p, q in zip(lp, r)]).sum()
    o.zero_grad()
    l.backward()
    o.step()
print(l.item())
