import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(9)
torch.set_num_threads(1)


def head(i, h, o):
    return nn.Sequential(nn.Linear(i, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Linear(h, o))


def deactivate_requires_grad(m):
    for p in m.parameters():
        p.requires_grad = False


@torch.no_grad()
def update_momentum(model, model_ema, m):
    for e, p in zip(model_ema.parameters(), model.parameters()):
        e.data = e.data * m + p.data * (1.0 - m)


class BYOL(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv1d(1, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten())
        self.projection_head, self.prediction_head = head(32, 32, 16), head(16, 32, 16)
        self.backbone_momentum, self.projection_head_momentum = (
            copy.deepcopy(self.backbone),
            copy.deepcopy(self.projection_head),
        )
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, x):
        return self.prediction_head(self.projection_head(self.backbone(x)))

    def forward_momentum(self, x):
        return self.projection_head_momentum(self.backbone_momentum(x)).detach()


class NegCos(nn.Module):
    def forward(self, a, b):
        return -F.cosine_similarity(a, b, dim=1, eps=1e-8).mean()


wave = torch.sin(torch.arange(24)[None] * (torch.rand(192, 1) + 0.2)).unsqueeze(1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(wave), batch_size=32, shuffle=True, drop_last=True)
model, criterion = BYOL(), NegCos()
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.06, momentum=0.9)
EPOCHS = 7
warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=6)
cos = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * 6 - 6)
scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cos], milestones=[6])
for epoch in range(EPOCHS):
    total_loss = 0
    m = 1 - (1 - 0.99) * (math.cos(math.pi * epoch / EPOCHS) + 1) / 2
    for (x,) in loader:
        x0, x1 = x + 0.1 * torch.randn_like(x), torch.roll(x, 1, -1) + 0.1 * torch.randn_like(x)
        update_momentum(model.backbone, model.backbone_momentum, m=m)
        update_momentum(model.projection_head, model.projection_head_momentum, m=m)
        p0, z0 = model(x0), model.forward_momentum(x0)
        p1, z1 = model(x1), model.forward_momentum(x1)
        loss = 0.5 * (criterion(p0, z1) + criterion(p1, z0))
        total_loss += loss.detach()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    print(f"epoch: {epoch:>02}, loss: {total_loss / len(loader):.5f}")
