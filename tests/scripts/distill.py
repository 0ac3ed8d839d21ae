import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


T = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
S = nn.Linear(5, 3)
o = torch.optim.SGD(S.parameters(), 0.1)
sch = torch.optim.lr_scheduler.CosineAnnealingLR(o, 12)
for i in range(13):
    x, y = torch.randn(8, 5), torch.randint(0, 3, (8,))
    with torch.no_grad():
        t = T(x)
    s = S(x)
    l = 0.5 * F.cross_entropy(s, y, label_smoothing=0.1) + 0.5 * 4 * F.kl_div(
        F.log_softmax(s / 2, 1), F.softmax(t / 2, 1), reduction="batchmean"
    )
    o.zero_grad()
    l.backward()
    o.step()
    sch.step()
print(l.item())
