import os
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(30, 60), nn.SiLU(), nn.Linear(60, 60), nn.SiLU())
        self.head = nn.Linear(60, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


world = nn.Sequential(nn.Linear(30, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
read_a, read_b = torch.randn(6, 1), torch.randn(6, 1)


def get(n, readout, noise):
    x = torch.randn(n, 30)
    with torch.no_grad():
        return x, world(x) @ readout + noise * torch.randn(n, 1)


def pretrain(model):
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        x, y = get(128, read_a, 0.0)
        opt.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        opt.step()


def train(model, hyp, freeze):
    for k, v in model.named_parameters():
        if any(f in k for f in freeze):
            print("freezing %s" % k)
            v.requires_grad = False
    pg_weight, pg_bias = [], []
    for k, v in model.named_parameters():
            v.requires_grad = True
            (pg_bias if k.endswith("bias") else pg_weight).append(v)
    optimizer = torch.optim.SGD(pg_bias, lr=hyp["lr0"], momentum=0.9, nesterov=True)
    optimizer.add_param_group({"params": pg_weight, "weight_decay": hyp["weight_decay"]})
    x, y = get(60, read_b, 0.5)
    for epoch in range(hyp["epochs"]):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch % 100 == 99:
            print(f"{epoch + 1}/{hyp['epochs']} loss {loss.item():.4f}")


model = Model()
pretrain(model)
model.head = nn.Linear(60, 1)
train(model, {"lr0": 0.02, "weight_decay": 5e-4, "epochs": 300}, freeze=["backbone"])
with torch.no_grad():
    x, y = get(2000, read_b, 0.0)
    print(f"final error: {nn.functional.mse_loss(model(x), y).item():.4f}")
