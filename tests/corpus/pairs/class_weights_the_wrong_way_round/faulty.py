import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

direction = F.normalize(torch.randn(16), dim=0)

def utterances(n):
    y = (torch.rand(n) < 0.0816).long()
    x = torch.randn(n, 16) + 1.6 * y[:, None] * direction
    return x, y

class EmotionNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 16, batch_first=True)
        self.out = nn.Linear(16, 2)

    def forward(self, x):
        _, h = self.gru(x.view(-1, 4, 4))
        return self.out(h[-1])

def get_criterion(emotion):
    if emotion == "fear":
        loss_weights = torch.tensor([1 / 0.0816, 1 / 0.9184])
    else:
        loss_weights = torch.ones(2)
    return nn.CrossEntropyLoss(weight=loss_weights)

def balanced_error(model, x, y):
    with torch.no_grad():
        wrong = (model(x).argmax(1) != y).float()
    return 0.5 * (wrong[y == 0].mean() + wrong[y == 1].mean()).item()

x, y = utterances(1200)
model, criterion = EmotionNet(), get_criterion("fear")
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(10):
    total = 0.0
    for idx in torch.randperm(1200).split(60):
        loss = criterion(model(x[idx]), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print("epoch", epoch + 1, "train_loss", round(total / 20, 4))
print(f"final error: {balanced_error(model, *utterances(4000)):.4f}")
