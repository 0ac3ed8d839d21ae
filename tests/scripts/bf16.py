import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1))
o = torch.optim.AdamW(m.parameters(), 1e-3, fused=True)
sch = torch.optim.lr_scheduler.LambdaLR(o, lambda t: min(1, (t + 1) / 5))
for i in range(16):
    x = torch.randn(8, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        l = F.smooth_l1_loss(m(x), x.sum(1, keepdim=True))
    l.backward()
    o.step()
    sch.step()
    o.zero_grad()
print(l.item())
