import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

def texts(n):
    lengths = torch.randint(2, 60, (n,))
    ids = torch.randint(1, 12, (n, 60)) * (torch.arange(60) < lengths[:, None])
    first = ids[torch.arange(n), lengths - 1]
    return ids, lengths, (first > 6).long()


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 16, padding_idx=0)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, 2)

    def forward(self, ids, lengths):
        h, _ = self.rnn(self.embed(ids))
        return self.out(h[torch.arange(len(ids)), lengths - 1])


model = Classifier()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for step in range(60):
    ids, lengths, y = texts(64)
    loss = F.cross_entropy(model(ids, lengths), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 25 == 24:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    ids, lengths, y = texts(1000)
    print(f"final error: {(model(ids, lengths).argmax(1) != y).float().mean().item():.4f}")
