import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
o = torch.optim.SGD(m.parameters(), 0.05)
X = torch.randn(44, 5)
Y = X.sum(1, keepdim=True)
K = 3
bs = list(zip(X.split(8), Y.split(8)))
for ep in range(3):
    for w in range(0, len(bs), K):
        win = bs[w : w + K]
        n = sum(len(x) for x, _ in win)
        o.zero_grad()
        for x, y in win:
            (F.mse_loss(m(x), y) * len(x) / n).backward()
        o.step()
    print(w)
