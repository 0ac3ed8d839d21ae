import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

view = torch.randn(5, 24)

def features(n):
    return torch.tanh(torch.randn(n, 5) @ view) + 0.05 * torch.randn(n, 24)

class Projection(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(24, 32), nn.LeakyReLU(), nn.Linear(32, 24))

    def forward(self, x):
        return self.net(x + 0.2 * torch.randn_like(x))

proj = Projection()
decoder = nn.Sequential(nn.Linear(24, 6), nn.GELU(), nn.Linear(6, 24))
optimizer_proj = torch.optim.SGD(proj.parameters(), lr=0.3)
optimizer_distill = torch.optim.SGD(decoder.parameters(), lr=0.3)
accumulation_steps = 8
train = features(640)

for epoch in range(6):
    running = 0.0
    loader = train[torch.randperm(640)].split(2)
    for i, teacher in enumerate(loader):
        clean = proj(teacher)
        student = decoder(clean)
        loss = F.mse_loss(clean, teacher) + F.mse_loss(student, teacher)
        loss = loss / accumulation_steps
        optimizer_proj.zero_grad()
        optimizer_distill.zero_grad()
        loss.backward()
        if (i + 1) % accumulation_steps == 0:
            optimizer_proj.step()
            optimizer_distill.step()
        running += loss.item() * accumulation_steps
    print(f"epoch {epoch + 1} loss {running / len(loader):.4f}")

with torch.no_grad():
    x = features(1000)
    print(f"final error: {F.mse_loss(decoder(proj(x)), x).item():.4f}")
