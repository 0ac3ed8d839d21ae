"""Short documents are packed into rows with a block-diagonal causal mask and positions that restart, no label crosses a document, and the summed token losses of a window are divided by the window's tokens after the backward."""
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
torch.manual_seed(10)
VOCAB, ROW, WINDOW = 18, 32, 3


def document():
    """a b a b a b ... of random length, then the end sign 0."""
    n = int(torch.randint(4, 14, ()))
    ab = torch.randint(1, VOCAB, (2,))
    return torch.cat([ab.repeat(n)[:n], torch.zeros(1, dtype=torch.long)])


def packed_row():
    tokens, doc, pos, left, k = [], [], [], ROW, 0
    while left > 0:
        d = document()[:left]
        tokens.append(d); doc.append(torch.full_like(d, k)); pos.append(torch.arange(len(d)))
        left -= len(d); k += 1
    tokens, doc, pos = map(torch.cat, (tokens, doc, pos))
    labels = torch.full_like(tokens, -100)
    same = doc[1:] == doc[:-1]
    labels[:-1][same] = tokens[1:][same]
    return tokens, doc, pos, labels


class Packed(nn.Module):
    def __init__(self, d=32, heads=2):
        super().__init__()
        self.h = heads
        self.tok, self.pos = nn.Embedding(VOCAB, d), nn.Embedding(ROW, d)
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.head = nn.Linear(d, VOCAB)

    def forward(self, t, doc, pos):
        b, s = t.shape
        mask = (doc[:, None, :] == doc[:, :, None]) & torch.ones(s, s, dtype=torch.bool).tril()
        x = self.tok(t) + self.pos(pos)
        q, k, v = (z.view(b, s, self.h, -1).transpose(1, 2) for z in self.qkv(self.n1(x)).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
        x = x + self.o(a.transpose(1, 2).reshape(b, s, -1))
        return self.head(x + self.mlp(self.n2(x)))


model = Packed()
opt = torch.optim.AdamW(model.parameters(), lr=5e-3)
for update in range(1, 81):
    opt.zero_grad()
    nll, n_tok = 0.0, 0
    for _ in range(WINDOW):
        t, doc, pos, y = map(torch.stack, zip(*[packed_row() for _ in range(6)]))
        loss = F.cross_entropy(model(t, doc, pos).flatten(0, 1), y.flatten(), ignore_index=-100, reduction="sum")
        loss.backward()
        nll += loss.item()
        n_tok += (y != -100).sum().item()
    for p in model.parameters():
        p.grad /= n_tok
    opt.step()
    if update % 16 == 0:
        print(f"update {update}: {nll / n_tok:.3f} nats on {n_tok} tokens")
