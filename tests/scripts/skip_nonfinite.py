import torch
from torch import nn

torch.manual_seed(35)
torch.set_num_threads(1)
x = torch.randn(320, 5)
x[[7, 100, 201]] = float("inf")
y = torch.nan_to_num(x, 0, 0, 0).sum(1, keepdim=True)
net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
opt = torch.optim.Adam(net.parameters(), 1e-2)
skipped = 0
for epoch in range(4):
    total = n = 0
    for i in torch.randperm(320).split(16):
        loss = nn.functional.smooth_l1_loss(net(x[i]), y[i])
        if not torch.isfinite(loss):
            skipped += 1
            print("non-finite loss, batch skipped")
            opt.zero_grad()
            continue
        opt.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        if not torch.isfinite(norm):
            skipped += 1
            continue
        opt.step()
        total += loss.item() * len(i)
        n += len(i)
    print(epoch, total / n, skipped)
