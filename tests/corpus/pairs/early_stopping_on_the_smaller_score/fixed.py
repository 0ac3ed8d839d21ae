import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import copy

weights = torch.randn(8, 1)


def make(n):
    x = torch.randn(n, 8)
    return x, torch.tanh(x @ weights) + 0.1 * torch.randn(n, 1)


model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
train, valid, test = make(400), make(200), make(1000)


def score(data):
    with torch.no_grad():
        return -F.mse_loss(model(data[0]), data[1]).item()


best, best_state, waited = float("-inf"), None, 0
for epoch in range(20):
    for picks in torch.randperm(400).split(40):
        loss = F.mse_loss(model(train[0][picks]), train[1][picks])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    now = score(valid)
    print(f"epoch {epoch} validation {now:.4f}")
    if now > best:
        best, best_state, waited = now, copy.deepcopy(model.state_dict()), 0
    else:
        waited += 1
        if waited >= 4:
            break
model.load_state_dict(best_state)
print(f"final error: {-score(test):.4f}")
