"""Sharpness-aware minimisation over a window of micro-batches: the first gradient of the whole window climbs, the second is accumulated over the same micro-batches at the perturbed point, and the step is made from the restored weights."""
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(77)
RHO, K = 0.05, 3

X = torch.randn(900, 14)
Y = (X[:, 0] * X[:, 1] + X[:, 2]).unsqueeze(1)
model = nn.Sequential(nn.Linear(14, 64), nn.SiLU(), nn.Linear(64, 1))
base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
lossf = nn.MSELoss()


def accumulate(window):
    base.zero_grad()
    total = 0.0
    for rows in window:
        loss = lossf(model(X[rows]), Y[rows]) / len(window)
        loss.backward()
        total += loss.item()
    return total


for epoch in range(12):
    micro = torch.randperm(900).split(30)
    history = []
    for w in range(0, len(micro), K):
        window = micro[w:w + K]
        history.append(accumulate(window))
        with torch.no_grad():
            norm = torch.norm(torch.stack([p.grad.norm() for p in model.parameters()]))
            shifts = [RHO * p.grad / (norm + 1e-12) for p in model.parameters()]
            for p, e in zip(model.parameters(), shifts):
                p.add_(e)
        accumulate(window)
        with torch.no_grad():
            for p, e in zip(model.parameters(), shifts):
                p.sub_(e)
        base.step()
    if epoch % 2:
        print(f"epoch {epoch + 1}: mse {sum(history) / len(history):.4f}")
