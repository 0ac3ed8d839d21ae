import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

teacher = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
for value in teacher.parameters():
    value.requires_grad_(False)
teacher.train()
student = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
x = torch.randn(256, 10)
for epoch in range(25):
    for picks in torch.randperm(256).split(32):
        with torch.no_grad():
            wanted = teacher(x[picks])
        loss = F.mse_loss(student(x[picks]), 3 * wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1} loss {loss.item():.4f}")
teacher.eval()
with torch.no_grad():
    print(f"final error: {F.mse_loss(student(x), 3 * teacher(x)).item():.4f}")
