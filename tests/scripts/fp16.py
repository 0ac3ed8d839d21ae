import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
o = torch.optim.Adam(m.parameters(), 1e-3)
sc = torch.amp.GradScaler("cpu")
sch = torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=24)
for ep in range(2):
    for i in range(12):
        x = torch.randn(8, 5)
        with torch.autocast("cpu", dtype=torch.float16):
            l = F.mse_loss(m(x), x.sum(1, keepdim=True))
        o.zero_grad()
        sc.scale(l).backward()
        sc.unscale_(o)
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        a = sc.get_scale()
        sc.step(o)
        sc.update()
        if sc.get_scale() >= a:
            sch.step()
    print(l.item())
