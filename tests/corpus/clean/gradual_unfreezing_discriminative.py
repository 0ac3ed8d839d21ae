"""One optimiser holds every layer from the start, and the layers that are still frozen have no gradient and are therefore skipped by it until their turn comes."""
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(12)

def pretrained_body():
    """Stands for weights from another task: fitted to reconstruct the inputs."""
    body = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU())
    dec = nn.Linear(24, 12)
    opt = torch.optim.Adam([*body.parameters(), *dec.parameters()], lr=1e-2)
    for _ in range(100):
        z = torch.randn(128, 12)
        loss = (dec(body(z)) - z).pow(2).mean()
        opt.zero_grad(); loss.backward(); opt.step()
    print('reconstruction', round(loss.item(), 3))
    return body

body = pretrained_body()
head = nn.Linear(24, 3)
stages = [head, body[2], body[0]]
for layer in stages[1:]:
    layer.requires_grad_(False)
optimizer = torch.optim.Adam([{'params': l.parameters(), 'lr': 1e-2 / 2.6 ** i} for i, l in enumerate(stages)])
criterion = nn.CrossEntropyLoss()
X = torch.randn(1000, 12); Y = X[:, :3].abs().argmax(1)
for epoch in range(12):
    if epoch in (3, 6):
        stages[epoch // 3].requires_grad_(True)
        print('unfreeze', stages[epoch // 3])
    s = 0.
    for idx in torch.randperm(1000).split(50):
        loss = criterion(head(body(X[idx])), Y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        s += loss.item()
    print('epoch', epoch, 'loss', round(s / 20, 4))
