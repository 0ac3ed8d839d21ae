import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

PAD, VOCAB, MAXLEN = 0, 20, 40

def molecule():
    n = int(torch.randint(2, 6, (1,)))
    head = torch.randint(1, VOCAB, (1,))
    body = (head + 3 * torch.arange(n)) % (VOCAB - 1) + 1
    return F.pad(body, (0, MAXLEN - n), value=PAD)

data = torch.stack([molecule() for _ in range(1200)])
train, test = data[:1000], data[1000:]

class Autoencoder(nn.Module):
    def __init__(self, latent=6):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8, padding_idx=PAD)
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(8 * MAXLEN, 64), nn.ReLU(), nn.Linear(64, latent))
        self.decode = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, MAXLEN * VOCAB))

    def forward(self, ids):
        z = self.encode(self.embed(ids))
        return self.decode(z + 0.1 * torch.randn_like(z)).view(-1, MAXLEN, VOCAB)

def loss_function(logits, ids):
    recon = F.cross_entropy(logits.reshape(-1, VOCAB), ids.reshape(-1), ignore_index=PAD)
    return recon

model = Autoencoder()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for epoch in range(8):
    total = 0.0
    for ids in train[torch.randperm(1000)].split(50):
        loss = loss_function(model(ids), ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} reconstruction {total / 20:.4f}")

with torch.no_grad():
    real = test != PAD
    miss = (model(test).argmax(-1) != test)[real].float().mean().item()
print(f"final error: {miss:.4f}")
