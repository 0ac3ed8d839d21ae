"""The log-variances that weigh a regression and a classification task are parameters of the same optimiser, and the printed task losses are the unweighted ones."""
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
torch.manual_seed(30)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(15, 64), nn.Mish(), nn.Linear(64, 32), nn.Mish())
        self.reg = nn.Linear(32, 1)
        self.cls = nn.Linear(32, 3)
        self.log_var = nn.Parameter(torch.zeros(2))

    def forward(self, x, y_reg, y_cls):
        h = self.trunk(x)
        tasks = torch.stack([F.mse_loss(self.reg(h).squeeze(1), y_reg), F.cross_entropy(self.cls(h), y_cls)])
        return (tasks * torch.exp(-self.log_var) + 0.5 * self.log_var).sum(), tasks


X = torch.randn(1024, 15)
yr = 3 * torch.sin(X[:, 0]) + X[:, 1]
yc = X[:, 2:5].argmax(1)
net = TwoHeads()
optimizer = torch.optim.AdamW([
    {"params": [p for n, p in net.named_parameters() if n != "log_var"], "weight_decay": 0.01},
    {"params": [net.log_var], "weight_decay": 0.0, "lr": 1e-2},
], lr=3e-3)
for epoch in range(12):
    sums = torch.zeros(2)
    for i in torch.randperm(1024).view(-1, 64):
        loss, tasks = net(X[i], yr[i], yc[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums += tasks.detach()
    r, c = (sums / 16).tolist()
    if epoch % 2:
        print(f"epoch {epoch + 1}: mse {r:.3f}  ce {c:.3f}  weights {torch.exp(-net.log_var).tolist()}")
