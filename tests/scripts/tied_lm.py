import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class LM(nn.Module):
    def __init__(s):
        super().__init__()
        s.e = nn.Embedding(20, 16)
        s.t = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        s.o = nn.Linear(16, 20, bias=False)
        s.o.weight = s.e.weight

    def forward(s, x):
        return s.o(s.t(s.e(x)))


m = LM()
o = torch.optim.AdamW(m.parameters(), 1e-3)
K = 3
for ep in range(2):
    for w in range(3):
        bs = [torch.randint(0, 20, (4, 7)) for _ in range(K)]
        ys = [torch.where(torch.rand(b.shape) < 0.3, -100, b) for b in bs]
        n = sum((y != -100).sum() for y in ys)
        o.zero_grad()
        for b, y in zip(bs, ys):
            l = F.cross_entropy(m(b).view(-1, 20), y.view(-1), ignore_index=-100, reduction="sum") / n
            l.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        o.step()
    print(l.item())
