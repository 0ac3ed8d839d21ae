import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class Executor:
    def __init__(self):
        self.step = 0

    def train(self, model, optimizer, loader, clip):
        model.train()
        for feats, target in loader:
            loss = F.mse_loss(model(feats), target)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
            if torch.isfinite(norm):
                optimizer.step()
            self.step += 1
        return loss.item()


mix = torch.randn(16, 4)


def keywords(n):
    x = torch.randn(n, 16)
    return x, torch.tanh(x @ mix / 2)


model = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
executor = Executor()
for epoch in range(5):
    loss = executor.train(model, optimizer, [keywords(32) for _ in range(30)], clip=5.0)
    print(f"epoch {epoch} loss {loss:.4f}")
model.eval()
with torch.no_grad():
    x, y = keywords(2000)
    print(f"final error: {F.mse_loss(model(x), y).item():.4f}")
