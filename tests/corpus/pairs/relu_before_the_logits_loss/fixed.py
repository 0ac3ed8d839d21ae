import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

def create_semantic_head(channels, n_classes):
    head = [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    head.append(nn.Conv2d(channels, n_classes, 1))
    if n_classes > 1:
        head.append(nn.Softmax(dim=1))
    else:
        head.append(nn.Identity())
    return nn.Sequential(*head)

class PanopticNet(nn.Module):
    def __init__(self, n_classes=1):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU())
        self.semantic = create_semantic_head(8, n_classes)

    def forward(self, x):
        return self.semantic(self.backbone(x))

def cells(n, size=10):
    field = F.avg_pool2d(torch.randn(n, 1, size, size), 3, 1, 1)
    target = (field > 0.2).float()
    x = torch.cat([field * 3, torch.randn(n, 1, size, size)], 1)
    return x, target

model = PanopticNet()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
loss_fn = F.binary_cross_entropy_with_logits
for step in range(1, 121):
    x, target = cells(16)
    loss = loss_fn(model(x), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 30 == 0:
        print(f"step {step}: loss {loss.item():.4f}")

model.eval()
x, target = cells(200)
with torch.no_grad():
    out = model(x)
    print(f"probabilities from {torch.sigmoid(out).min().item():.3f} to {torch.sigmoid(out).max().item():.3f}")
    print(f"final error: {loss_fn(out, target).item():.4f}")
