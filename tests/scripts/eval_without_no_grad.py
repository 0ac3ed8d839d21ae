import torch
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
o = torch.optim.RMSprop(m.parameters(), 1e-3)
crit = nn.MSELoss()
x, y = torch.randn(40, 5), torch.randn(40, 1)
for ep in range(3):
    m.train()
    for b in range(5):
        o.zero_grad()
        crit(m(x[b * 8 : b * 8 + 8]), y[b * 8 : b * 8 + 8]).backward()
        o.step()
    m.eval()
    print(crit(m(x), y).item())
