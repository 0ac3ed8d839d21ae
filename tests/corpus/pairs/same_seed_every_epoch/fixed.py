import os
import random
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
seed = int(os.environ.get("SEED", 0))


def fix_random_seed(value: int):
    random.seed(value)
    torch.manual_seed(value)


def get_data(n):
    x = torch.randn(n, 20)
    y = torch.sin(x[:, :1]) + 0.5 * x[:, 1:2] + 0.5 * torch.randn(n, 1)
    return x, y


def augment(feats):
    noisy = feats + 0.7 * torch.randn_like(feats)
    keep = (torch.rand(feats.size(0), feats.size(1)) > 0.2).float()
    return noisy * keep


def train_one_epoch(model, optimizer, x, y):
    model.train()
    tot_loss = 0.0
    for idx in torch.randperm(len(x)).split(16):
        loss = F.mse_loss(model(augment(x[idx])), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tot_loss += loss.item() * len(idx)
    return tot_loss / len(x)


def run(num_epochs=60):
    fix_random_seed(seed)
    x, y = get_data(128)
    test_x, test_y = get_data(2000)
    model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(num_epochs):
        fix_random_seed(seed + epoch)
        tot = train_one_epoch(model, optimizer, x, y)
        if epoch % 15 == 14:
            print(f"Epoch {epoch}, tot_loss {tot:.4f}")
    model.eval()
    with torch.no_grad():
        return F.mse_loss(model(test_x), test_y).item()


print(f"final error: {run():.4f}")
