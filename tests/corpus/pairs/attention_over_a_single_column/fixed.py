import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

WORDS = 9


def questions(n):
    x = torch.randn(WORDS, n, 10)
    key = x[:, :, 0].argmax(0)
    return x, x[key, torch.arange(n), 1:5]


class EmbedVector(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(10, 24)
        self.attn = nn.Linear(24 + 10, 1)
        self.hidden2tag = nn.Linear(24 + 10, 4)

    def forward(self, x):
        outputs, _ = self.lstm(x)
        both = torch.cat((x, outputs), 2)
        scores = 4 * self.attn(both)
        attn_weights = F.softmax(scores, dim=0)
        pooled = (attn_weights * both).sum(0)
        return self.hidden2tag(pooled)


model = EmbedVector()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = nn.MSELoss()
for step in range(300):
    x, target = questions(32)
    optimizer.zero_grad()
    loss = criterion(model(x), target)
    loss.backward()
    optimizer.step()
    if step % 60 == 0:
        print(f"step {step} loss {loss.item():.4f}")
x, target = questions(1000)
with torch.no_grad():
    print(f"final error: {criterion(model(x), target).item():.4f}")
