import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

prototypes = torch.randn(10, 30)


def digits(n):
    y = torch.randint(0, 10, (n,))
    return prototypes[y] + 1.6 * torch.randn(n, 30), y


model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.6), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
train, valid = digits(800), digits(400)
for epoch in range(6):
    model.train()
    for picks in torch.randperm(800).split(50):
        loss = F.cross_entropy(model(train[0][picks]), train[1][picks])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        wrong = (model(valid[0]).argmax(1) != valid[1]).float().mean().item()
    print(f"epoch {epoch} loss {loss.item():.4f} validation error {wrong:.4f}")
print(f"final error: {wrong:.4f}")
