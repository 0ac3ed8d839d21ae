import torch
from torch import nn

torch.manual_seed(15)
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.mid = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.mid(self.stem(x)))

    def train(self, mode=True):
        super().train(mode)
        for part in (self.stem, self.mid):
            if not next(part.parameters()).requires_grad:
                part.eval()
        return self


x = torch.randn(256, 10)
y = (x[:, :3] + 0.3 * torch.randn(256, 3)).argmax(1)
model = Net()
for p in [*model.stem.parameters(), *model.mid.parameters()]:
    p.requires_grad_(False)
optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-2)
plan = {2: ("mid", 3e-3), 4: ("stem", 1e-3)}
crit = nn.CrossEntropyLoss(label_smoothing=0.05)
for epoch in range(6):
    if epoch in plan:
        name, lr = plan[epoch]
        part = getattr(model, name)
        for p in part.parameters():
            p.requires_grad_(True)
        optimizer.add_param_group({"params": part.parameters(), "lr": lr})
    model.train()
    run = 0.0
    for i in torch.randperm(224).split(32):
        loss = crit(model(x[i]), y[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run += loss.item() * len(i)
    model.eval()
    with torch.no_grad():
        val = crit(model(x[224:]), y[224:]).item()
    print(f"epoch {epoch} train {run / 224:.4f} val {val:.4f} groups {len(optimizer.param_groups)}")
