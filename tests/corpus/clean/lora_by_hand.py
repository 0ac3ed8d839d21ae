"""The base network is trained, frozen and left as it is, only the low-rank factors are in the second optimiser, and the merged weights reproduce the adapted outputs."""
import math
import torch, torch.nn as nn, torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(2024)


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, r: int = 4, alpha: int = 8):
        super().__init__()
        self.base = base
        for p in self.base.parameters():
            p.requires_grad = False
        self.A = nn.Parameter(torch.empty(r, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)

    def merge(self):
        merged = nn.Linear(self.base.in_features, self.base.out_features)
        with torch.no_grad():
            merged.weight.copy_(self.base.weight + self.scale * self.B @ self.A)
            merged.bias.copy_(self.base.bias)
        return merged


def fit(model, X, y, params, lr, epochs, tag):
    opt = torch.optim.AdamW(params, lr=lr, weight_decay=0.0)
    for e in range(epochs):
        model.train()
        s = 0.0
        for i in torch.randperm(len(X)).split(64):
            opt.zero_grad()
            loss = F.cross_entropy(model(X[i]), y[i])
            loss.backward()
            opt.step()
            s += loss.item() * len(i)
        if e % 5 == 0 or e == epochs - 1:
            print(f"{tag} epoch {e + 1}: {s / len(X):.4f}")


X = torch.randn(1000, 16)
W = torch.randn(16, 4)
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
fit(model, X, (X @ W).argmax(1), model.parameters(), 2e-3, 10, "pretrain")

W2 = W + 0.7 * torch.randn(16, 4)            # the new task
y2 = (X @ W2).argmax(1)
for i in (0, 2, 4):
    model[i] = LoRALinear(model[i])
trainable = [p for p in model.parameters() if p.requires_grad]
print("trainable:", sum(p.numel() for p in trainable), "of", sum(p.numel() for p in model.parameters()))
fit(model, X, y2, trainable, 5e-3, 15, "lora")

model.eval()
with torch.no_grad():
    before = model(X)
    for i in (0, 2, 4):
        model[i] = model[i].merge()
    print("merged, max difference:", (model(X) - before).abs().max().item())
    print("accuracy on the new task:", (model(X).argmax(1) == y2).float().mean().item())
