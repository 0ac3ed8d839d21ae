import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

m = nn.Linear(5, 1)
o = torch.optim.SGD(m.parameters(), 0.05)
K = 2
step = 0
done = False
X = torch.randn(72, 5)
Y = X.sum(1, keepdim=True)
while not done:
    for i, (x, y) in enumerate(zip(X.split(8), Y.split(8))):
        if i >= 8:
            break
        (F.mse_loss(m(x), y) / K).backward()
        if (i + 1) % K == 0:
            o.step()
            o.zero_grad()
            step += 1
            if step >= 7:
                done = True
                break
print(step)
