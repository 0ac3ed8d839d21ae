import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

VOCAB, WIDTH = 20, 24


def sentences(n, length):
    lengths = torch.randint(2, 7, (n,))
    ids = torch.randint(1, VOCAB, (n, length)) * (torch.arange(length) < lengths[:, None])
    return ids, lengths, (ids > VOCAB // 2).float().sum(1) / lengths


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.query = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, ids, mask):
        h = self.embed(ids)
        pooled, _ = self.attend(self.query.expand(len(ids), 1, WIDTH), h, h, key_padding_mask=mask == 0)
        return self.head(pooled[:, 0]).squeeze(1)


def collate(ids, lengths):
    mask = torch.ones_like(ids)
    mask[torch.arange(ids.shape[1]) >= lengths[:, None]] = 0
    return ids, mask


model = Encoder()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for step in range(250):
    ids, lengths, y = sentences(32, 7)
    loss = F.mse_loss(model(*collate(ids, lengths)), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    ids, lengths, y = sentences(1000, 20)
    print(f"final error: {F.mse_loss(model(*collate(ids, lengths)), y).item():.4f}")
