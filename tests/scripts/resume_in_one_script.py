import os
import tempfile

import torch
from torch import nn

torch.set_num_threads(1)
x = torch.randn(192, 6, generator=torch.Generator().manual_seed(0))
y = x[:, :1] * x[:, 1:2]


def build():
    torch.manual_seed(45)
    m = nn.Sequential(nn.Linear(6, 32), nn.SiLU(), nn.Linear(32, 1))
    o = torch.optim.AdamW(m.parameters(), lr=1e-2)
    s = torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=48)
    return m, o, s


def run(model, optimizer, scheduler, start, stop):
    for epoch in range(start, stop):
        g = torch.Generator().manual_seed(epoch)
        tot = 0.0
        for k, i in enumerate(torch.randperm(192, generator=g).split(16)):
            loss = nn.functional.mse_loss(model(x[i]), y[i])
            tot += loss.item()
            (loss / 2).backward()
            if k % 2:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        print(epoch, tot / 12)


path = os.path.join(tempfile.mkdtemp(), "last.pt")
model, optimizer, scheduler = build()
run(model, optimizer, scheduler, 0, 4)
torch.save(
    {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "epoch": 4},
    path,
)
model, optimizer, scheduler = build()
c = torch.load(path)
model.load_state_dict(c["model"])
optimizer.load_state_dict(c["optimizer"])
scheduler.load_state_dict(c["scheduler"])
run(model, optimizer, scheduler, c["epoch"], 8)
