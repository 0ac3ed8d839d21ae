import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16), nn.BatchNorm1d(16))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.backbone(x))


def fit(model, parameters, epochs, shift, freeze=False):
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    for epoch in range(epochs):
        model.train()
        if freeze:
            model.head.train()
        for _ in range(20):
            x = torch.randn(32, 10) + shift
            y = (x[:, :3] - shift).argmax(1)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch} loss {loss.item():.4f}")


model = Classifier()
fit(model, model.parameters(), 5, shift=0.0)
for p in model.backbone.parameters():
    p.requires_grad = False
probe = torch.randn(500, 10)
model.eval()
with torch.no_grad():
    before = model.backbone(probe)
fit(model, model.head.parameters(), 5, shift=1.0, freeze=True)
model.eval()
with torch.no_grad():
    after = model.backbone(probe)
print(f"final error: {((after - before).norm() / before.norm()).item():.4f}")
