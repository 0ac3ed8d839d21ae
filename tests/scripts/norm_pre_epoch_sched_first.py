import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Linear(5, 1)
o = torch.optim.SGD([{"params": [m.weight], "lr": 0.1}, {"params": [m.bias], "lr": 0.0}], lr=0.05)
s = torch.optim.lr_scheduler.MultiStepLR(o, [2, 3])
for ep in range(4):
    for i in range(4):
        x = torch.randn(8, 5)
        l = F.mse_loss(m(x), x.sum(1, keepdim=True))
        o.zero_grad()
        l.backward()
        o.step()
    s.step()
print(l.item())
