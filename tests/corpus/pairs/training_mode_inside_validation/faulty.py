import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class MMDL(nn.Module):
    """two modalities, concatenated"""
    def __init__(self):
        super().__init__()
        self.audio = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5))
        self.video = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))

    def forward(self, inputs):
        return self.head(torch.cat([self.audio(inputs[0]), self.video(inputs[1])], 1))

ma, mv = torch.randn(4, 8), torch.randn(4, 12)

def dataset(n, batch=40):
    out = []
    for _ in range(n // batch):
        y = torch.randint(0, 4, (batch,))
        out.append((ma[y] + 1.8 * torch.randn(batch, 8), mv[y] + 1.8 * torch.randn(batch, 12), y))
    return out

def train(model, train_data, valid_data, total_epochs):
    op = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for epoch in range(total_epochs):
        model.train()
        totalloss = 0.0
        for a, v, y in train_data:
            op.zero_grad()
            loss = F.cross_entropy(model((a, v)), y)
            loss.backward()
            op.step()
            totalloss += loss.item()
        model.eval()
        with torch.no_grad():
            wrong, totals = 0, 0
            for a, v, y in valid_data:
                model.train()
                out = model((a, v))
                wrong += (out.argmax(1) != y).sum().item()
                totals += len(y)
        print("Epoch", epoch, "train loss", round(totalloss / len(train_data), 4), "valid error", wrong / totals)
    return wrong / totals

valid = dataset(800)
model = MMDL()
reported = train(model, dataset(800), valid, 8)
model.eval()
with torch.no_grad():
    true = torch.cat([model((a, v)).argmax(1) != y for a, v, y in valid]).float().mean().item()
print(f"final error: {abs(reported - true):.4f}")
