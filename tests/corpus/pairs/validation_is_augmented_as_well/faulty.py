import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.utils.data import DataLoader, Dataset, random_split

pattern = torch.randn(5, 40)


class Pictures(Dataset):
    def __init__(self, x, y, augment):
        self.x, self.y, self.augment = x, y, augment

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        x = self.x[i]
        if self.augment:
            x = x * (torch.rand(40) > 0.6) + 1.5 * torch.randn(40)
        return x, self.y[i]


y = torch.randint(0, 5, (800,))
x = pattern[y] + 0.8 * torch.randn(800, 40)
train, valid = random_split(Pictures(x, y, augment=True), [600, 200])
held = valid
model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 5))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(4):
    for inputs, labels in DataLoader(train, batch_size=32, shuffle=True):
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        hits = sum((model(a).argmax(1) == b).sum().item() for a, b in DataLoader(held, batch_size=100))
    print(f"epoch {epoch} loss {loss.item():.4f} validation {hits / 200:.3f}")
with torch.no_grad():
    plain = (model(x[valid.indices]).argmax(1) == y[valid.indices]).float().mean().item()
print(f"final error: {abs(plain - hits / 200):.4f}")
