import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

truth = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 1))
model = nn.Sequential(nn.Linear(6, 48), nn.Tanh(), nn.Linear(48, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[6, 9], gamma=0.05)
x = torch.randn(512, 6)
with torch.no_grad():
    y = 3 * truth(x)
for epoch in range(10):
    for picks in torch.randperm(512).split(32):
        loss = F.mse_loss(model(x[picks]), y[picks])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
with torch.no_grad():
    new = torch.randn(2000, 6)
    print(f"final error: {F.mse_loss(model(new), 3 * truth(new)).item():.5f}")
