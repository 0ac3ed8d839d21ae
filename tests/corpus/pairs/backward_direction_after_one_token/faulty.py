import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

LENGTH = 14


def words(n):
    x = torch.randn(n, LENGTH, 3)
    return x, (x[:, 0, 0] + x[:, 1, 1] > 0).long()


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.forwards = nn.GRU(3, 2, batch_first=True)
        self.rnn = nn.GRU(3, 12, batch_first=True, bidirectional=True)
        self.out = nn.Linear(24, 2)

    def forward(self, x):
        h, _ = self.rnn(x)
        return self.out(h[:, -1])


model = Tagger()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for step in range(120):
    x, y = words(64)
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 30 == 29:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    x, y = words(1000)
    print(f"final error: {(model(x).argmax(1) != y).float().mean().item():.4f}")
