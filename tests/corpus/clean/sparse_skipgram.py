"""Embeddings with sparse gradients are stepped by SparseAdam and the dense projection by Adam, both zeroed before and stepped after the one backward."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim import Adam, SparseAdam

torch.manual_seed(88)
torch.set_num_threads(1)

V, DIM, TOPICS, NEG = 120, 16, 6, 5
topic = torch.arange(V) % TOPICS
members = [torch.nonzero(topic == t).flatten() for t in range(TOPICS)]


def pairs(n):
    center = torch.randint(V, (n,))
    context = torch.stack([members[t][torch.randint(len(members[t]), ())] for t in topic[center]])
    return center, context, torch.randint(V, (n, NEG))


class SkipGram(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Embedding(V, DIM, sparse=True)
        self.out = nn.Embedding(V, DIM, sparse=True)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, c, o, neg):
        v = self.proj(self.inp(c))
        pos = (v * self.out(o)).sum(-1)
        negative = torch.bmm(self.out(neg), v.unsqueeze(-1)).squeeze(-1)
        return -(F.logsigmoid(pos) + F.logsigmoid(-negative).sum(-1)).mean()


model = SkipGram()
sparse_opt = SparseAdam(list(model.inp.parameters()) + list(model.out.parameters()), lr=2e-2)
dense_opt = Adam(model.proj.parameters(), lr=2e-3)
tracker = 0.0
for it in range(1, 241):
    loss = model(*pairs(128))
    sparse_opt.zero_grad()
    dense_opt.zero_grad()
    loss.backward()
    sparse_opt.step()
    dense_opt.step()
    tracker += loss.item()
    if it % 40 == 0:
        with torch.no_grad():
            e = F.normalize(model.inp.weight, dim=1)
            near = (e @ e.T).fill_diagonal_(-2).argmax(1)
        print(f"{it:4d} loss {tracker / 40:.3f} same topic {(topic[near] == topic).float().mean():.2f}")
        tracker = 0.0
