"""Every micro-batch's mean is weighted by its samples over the samples of its own window, also in the shorter last window, and the fused AdamW makes one step for each window."""
import math
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(101)
N, MICRO, ACC = 530, 24, 4

features = torch.randn(N, 11)
prices = (features[:, :3].exp().sum(1) / 5 + features[:, 4] * 0.3).unsqueeze(1)
loader = DataLoader(TensorDataset(features, prices), batch_size=MICRO, shuffle=True)
model = nn.Sequential(nn.Linear(11, 80), nn.SiLU(), nn.Linear(80, 80), nn.SiLU(), nn.Linear(80, 1))
opt = torch.optim.AdamW(model.parameters(), lr=4e-3, fused=True)
huber = nn.HuberLoss()

n_batches = len(loader)
print(f"{n_batches} batches, {math.ceil(n_batches / ACC)} steps an epoch")
for epoch in range(12):
    epoch_sum = 0.0
    opt.zero_grad()
    for i, (xb, yb) in enumerate(loader):
        first = i // ACC * ACC * MICRO
        in_window = min(ACC * MICRO, N - first)
        loss = huber(model(xb), yb)
        (loss * len(xb) / in_window).backward()
        epoch_sum += loss.item() * len(xb)
        if (i + 1) % ACC == 0 or i + 1 == n_batches:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
    if epoch % 3 == 2:
        print(f"epoch {epoch + 1:2d}: {epoch_sum / N:.4f}")
