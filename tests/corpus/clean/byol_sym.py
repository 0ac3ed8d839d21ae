"""Only the online branch and its predictor carry gradients, the loss is symmetric in the two views, and the target follows after every optimiser step with a momentum that rises to one."""
import copy, math
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1); torch.manual_seed(5)

def head(i, h, o):
    return nn.Sequential(nn.Linear(i, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Linear(h, o))

def regression_loss(p, z):
    return 2 - 2 * F.cosine_similarity(p, z.detach(), dim=-1).mean()

protos = torch.randn(10, 32)
labels = torch.randint(10, (640,))
data = protos[labels] + 0.7 * torch.randn(640, 32)
view = lambda x: (x + 0.4 * torch.randn_like(x)) * (torch.rand_like(x) > 0.2)

online = nn.Sequential(head(32, 64, 32), head(32, 64, 16))
predictor = head(16, 32, 16)
target = copy.deepcopy(online)
for p in target.parameters():
    p.requires_grad_(False)

loader = DataLoader(TensorDataset(data), batch_size=64, shuffle=True, drop_last=True)
opt = torch.optim.SGD(list(online.parameters()) + list(predictor.parameters()), lr=0.1, momentum=0.9, weight_decay=1e-5)
EPOCHS = 30
n_steps, k = EPOCHS * len(loader), 0

for epoch in range(EPOCHS):
    total = 0.
    for (x,) in loader:
        v1, v2 = view(x), view(x)
        p1, p2 = predictor(online(v1)), predictor(online(v2))
        with torch.no_grad():
            t1, t2 = target(v1), target(v2)
        loss = regression_loss(p1, t2) + regression_loss(p2, t1)
        opt.zero_grad()
        loss.backward()
        opt.step()
        tau = 1 - (1 - 0.97) * (math.cos(math.pi * k / n_steps) + 1) / 2
        with torch.no_grad():
            for po, pt in zip(online.parameters(), target.parameters()):
                pt.mul_(tau).add_(po, alpha=1 - tau)
        k += 1
        total += loss.item()
    if (epoch + 1) % 5 == 0:
        online.eval()
        with torch.no_grad():
            z = F.normalize(online(data), dim=1)
        sim = z @ z.T - 2 * torch.eye(len(z))
        knn = (labels[sim.argmax(1)] == labels).float().mean()
        online.train()
        print(f"[{epoch + 1:02d}/{EPOCHS}] loss={total / len(loader):.4f} 1-nn={knn:.3f} tau={tau:.4f}")
