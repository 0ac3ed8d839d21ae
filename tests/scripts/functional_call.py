import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Linear(4, 1)
o = torch.optim.Adam(m.parameters(), 1e-2)
for i in range(8):
    ml = 0
    for t in range(3):
        w = torch.randn(4, 1)
        x = torch.randn(10, 4)
        p = dict(m.named_parameters())
        l = F.mse_loss(torch.func.functional_call(m, p, (x,)), x @ w)
        g = torch.autograd.grad(l, list(p.values()), create_graph=True)
        q = {k: v - 0.1 * d for (k, v), d in zip(p.items(), g)}
        x = torch.randn(10, 4)
        ml = ml + F.mse_loss(torch.func.functional_call(m, q, (x,)), x @ w)
    o.zero_grad()
    (ml / 3).backward()
    o.step()
print(ml.item())
