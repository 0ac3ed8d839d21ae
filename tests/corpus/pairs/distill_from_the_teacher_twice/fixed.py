import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

centers = torch.randn(6, 12) * 1.1

def sample(n):
    y = torch.randint(0, 6, (n,))
    return centers[y] + torch.randn(n, 12), y

def mlp(width):
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 6))

# large model, clean and plentiful labels
large = mlp(128)
opt = torch.optim.Adam(large.parameters(), lr=3e-3)
for _ in range(250):
    x, y = sample(256)
    opt.zero_grad()
    F.cross_entropy(large(x), y).backward()
    opt.step()
large.eval()

class Distill:
    def __init__(self, student, temperature=2.0):
        self.model = student
        self.t = temperature
        self.opt = torch.optim.Adam(student.parameters(), lr=3e-3)
        self.kl = nn.KLDivLoss(reduction="batchmean", log_target=True)

    def step(self, data, target):
        with torch.no_grad():
            large_logits = large(data)
        output = self.model(data)
        log_softmax = nn.LogSoftmax(dim=-1)
        soft_targets = log_softmax(large_logits / self.t)
        soft_prob = log_softmax(output / self.t)
        soft_loss = self.kl(soft_prob, soft_targets) * self.t ** 2
        label_loss = F.cross_entropy(output, target)
        loss = 0.9 * soft_loss + 0.1 * label_loss
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return soft_loss.item(), label_loss.item()

x, y = sample(240)
flip = torch.rand(240) < 0.4
y = torch.where(flip, torch.randint(0, 6, (240,)), y)
trainer = Distill(mlp(24))
for epoch in range(40):
    order = torch.randperm(240)
    for idx in order.split(40):
        soft, hard = trainer.step(x[idx], y[idx])
    if epoch % 10 == 9:
        print(f"epoch {epoch} soft {soft:.4f} label {hard:.4f}")

xt, yt = sample(2000)
with torch.no_grad():
    err = (trainer.model(xt).argmax(1) != yt).float().mean().item()
print(f"final error: {err:.4f}")
