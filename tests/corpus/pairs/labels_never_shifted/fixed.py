import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

VOCAB, LENGTH = 15, 12
rule = torch.randperm(VOCAB)


def text(n):
    ids = [torch.randint(0, VOCAB, (n,))]
    for _ in range(LENGTH - 1):
        ids.append(torch.where(torch.rand(n) < 0.95, rule[ids[-1]], torch.randint(0, VOCAB, (n,))))
    return torch.stack(ids, 1)


class Decoder(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, input_ids, labels=None):
        n = input_ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(n)
        logits = self.head(self.block(self.embed(input_ids), src_mask=mask, is_causal=True))
        if labels is not None:
            logits, labels = logits[:, :-1], labels[:, 1:]
            return F.cross_entropy(logits.reshape(-1, VOCAB), labels.reshape(-1)), logits
        return logits


model = Decoder()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(150):
    batch = text(32)
    loss, _ = model(batch, labels=batch.clone())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 30 == 0:
        print(f"step {step} loss {loss.item():.4f}")
ids = text(500)
with torch.no_grad():
    print(f"final error: {(model(ids[:, :-1]).argmax(2) != rule[ids[:, :-1]]).float().mean().item():.4f}")
