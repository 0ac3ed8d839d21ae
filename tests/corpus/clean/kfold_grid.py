"""Every fold and every setting of the grid makes a network and an optimiser anew with its own statistics of the training part, and the best setting is trained once more on everything."""
import itertools
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(50)
N, FOLDS = 400, 4
x = torch.randn(N, 9) * torch.arange(1, 10)
y = (x[:, :1] / 1 + torch.tanh(x[:, 1:2]) + 0.1 * torch.randn(N, 1))
perm = torch.randperm(N).view(FOLDS, -1)


def fit(xt, yt, lr, width, epochs=15):
    mean, std = xt.mean(0), xt.std(0)
    net = nn.Sequential(nn.Linear(9, width), nn.ReLU(), nn.Linear(width, 1))
    opt = torch.optim.Adam(net.parameters(), lr=lr, weight_decay=1e-4)
    for _ in range(epochs):
        loss_sum = 0.0
        for b in torch.randperm(len(xt)).split(25):
            opt.zero_grad()
            loss = (net((xt[b] - mean) / std) - yt[b]).pow(2).mean()
            loss.backward()
            opt.step()
            loss_sum += loss.item() * len(b)
    return (lambda z: net((z - mean) / std)), loss_sum / len(xt)


scores = {}
for lr, width in itertools.product([3e-3, 2e-2], [8, 32]):
    errs = []
    for k in range(FOLDS):
        train = torch.cat([perm[j] for j in range(FOLDS) if j != k])
        f, train_mse = fit(x[train], y[train], lr, width)
        with torch.no_grad():
            errs.append((f(x[perm[k]]) - y[perm[k]]).pow(2).mean().item())
    scores[lr, width] = sum(errs) / FOLDS
    print(f"lr={lr:g} width={width:2d}: cv mse {scores[lr, width]:.4f} (last train {train_mse:.4f})")
best = min(scores, key=scores.get)
_, final = fit(x, y, *best)
print("best", best, "final training mse", round(final, 4))
