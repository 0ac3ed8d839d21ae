import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

coef = torch.randn(10, 1)

def table(n, outliers=True):
    x = torch.randn(n, 10)
    y = x @ coef
    if outliers:
        hit = torch.rand(n, 1) < 0.03
        y = torch.where(hit, y + 60 * torch.randn(n, 1), y)
    return x, y

x, y = table(600)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=2e-2)
gradient_clipping_norm = 1.0

for epoch in range(40):
    losses = []
    for idx in torch.randperm(600).split(20):
        model.train()
        optimizer.zero_grad()
        loss = F.mse_loss(model(x[idx]), y[idx])
        loss.backward()
        if gradient_clipping_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), gradient_clipping_norm)
        optimizer.step()
        losses.append(loss.item())
    if epoch % 10 == 9:
        print(f"epoch {epoch} mean loss {sum(losses) / len(losses):.3f} worst {max(losses):.2f}")

model.eval()
xt, yt = table(2000, outliers=False)
with torch.inference_mode():
    print(f"final error: {min(F.mse_loss(model(xt), yt).item(), 1e6):.4f}")
