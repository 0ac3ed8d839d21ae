import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

V, D, SPLIT = 30, 24, 10

def corpus(n):
    ids = [0]
    noise = torch.rand(n)
    jump = torch.randint(0, V, (n,))
    for t in range(n):
        ids.append(int(jump[t]) if noise[t] < 0.2 else (2 * ids[-1] + 7) % V)
    return torch.tensor(ids)

class RNNModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, D)
        self.rnn = nn.GRU(D, D, batch_first=True)

    def forward(self, ids):
        return self.rnn(self.embed(ids))[0]

class SplitLoss(nn.Module):
    """frequent words in the head, the others behind one tail symbol"""
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D, SPLIT + 1)
        self.tail = nn.Linear(D, V - SPLIT)

    def forward(self, hidden, target):
        h = hidden.reshape(-1, D)
        t = target.reshape(-1)
        rare = t >= SPLIT
        loss = F.cross_entropy(self.head(h), t.clamp(max=SPLIT), reduction="sum")
        loss = loss + F.cross_entropy(self.tail(h[rare]), t[rare] - SPLIT, reduction="sum")
        return loss / len(t)

model, criterion = RNNModel(), SplitLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
text = corpus(3200)
source, target = text[:-1].view(-1, 20), text[1:].view(-1, 20)
for epoch in range(5):
    for s, t in zip(source.split(16), target.split(16)):
        loss = criterion(model(s), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"| end of epoch {epoch + 1} | loss {loss.item():.3f} |")
test = corpus(2000)
with torch.no_grad():
    print(f"final error: {criterion(model(test[:-1].view(-1, 20)), test[1:].view(-1, 20)).item():.4f}")
