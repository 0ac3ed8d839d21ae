import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

VOCAB, LEN = 15, 6

class Seq2Seq(nn.Module):
    def __init__(self, hidden=48):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 24)
        self.encoder = nn.GRU(24, hidden, batch_first=True)
        self.decoder = nn.GRU(24, hidden, batch_first=True)
        self.out = nn.Linear(hidden, VOCAB)

    def forward(self, source, target):
        _, h = self.encoder(self.embed(source))
        y, _ = self.decoder(self.embed(target), h)
        return F.log_softmax(self.out(y), dim=-1)

def get_batch(n):
    src = torch.randint(1, VOCAB, (n, LEN))
    tgt = src.sort(dim=1).values
    return src, torch.cat([torch.zeros(n, 1, dtype=torch.long), tgt], 1)

model = Seq2Seq()
criterion = nn.NLLLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(6):
    epoch_loss = 0.0
    for _ in range(30):
        src, tgt = get_batch(32)
        pred = model(src, tgt[:, :-1])
        loss = criterion(pred.reshape(-1, VOCAB), tgt[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item()
    print("epoch", epoch, "loss", epoch_loss / 30)

src, tgt = get_batch(500)
with torch.no_grad():
    scores = model(src, tgt[:, :-1])
    logp = scores if (scores <= 0).all() else scores.clamp_min(1e-12).log()
    nll = -logp.gather(2, tgt[:, 1:, None]).mean().item()
print(f"final error: {nll:.4f}")
