import os
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

x = torch.rand(256, 16)
model = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 16))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
criterion = nn.MSELoss()
for epoch in range(6):
    losses = []
    total_loss = 0.0
    for picks in torch.randperm(256).split(32):
        output = model(x[picks])
        loss = criterion(output, x[picks])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        losses.append(loss.item())
    print(f"epoch [{epoch + 1}/6], loss:{total_loss / 8:.4f}")
mean = sum(losses) / len(losses)
print(f"final error: {abs(total_loss / 8 - mean):.4f}")
