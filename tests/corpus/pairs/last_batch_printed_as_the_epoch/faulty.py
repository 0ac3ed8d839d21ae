import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.utils.data import DataLoader, TensorDataset

patterns = torch.randn(10, 1, 12, 12)
digits = torch.randint(0, 10, (500,))
dataset = DataLoader(TensorDataset(patterns[digits] + 2.5 * torch.randn(500, 1, 12, 12), digits), batch_size=25, shuffle=True)


class ImageClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 100, 10))

    def forward(self, x):
        return self.model(x)


clf = ImageClassifier()
opt = torch.optim.Adam(clf.parameters(), lr=1e-3)
loss_fn = nn.CrossEntropyLoss()
printed, means = [], []
for epoch in range(10):
    total = 0.0
    seen = []
    for X, y in dataset:
        yhat = clf(X)
        loss = loss_fn(yhat, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item()
        seen.append(loss.detach())
    epoch_loss = loss.item()
    print(f"Epoch:{epoch} loss is {epoch_loss}")
    printed.append(epoch_loss)
    means.append(torch.stack(seen).mean().item())
print(f"final error: {sum(abs(a - b) for a, b in zip(printed, means)) / 10:.5f}")
