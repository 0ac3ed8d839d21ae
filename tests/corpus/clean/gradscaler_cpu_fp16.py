"""A GradScaler of the CPU unscales once before the clip, steps and updates once per window, and the scheduler ticks only if the scale has not fallen."""
import torch
import torch.nn as nn
from torch.amp import GradScaler, autocast
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(23)
device, accum = "cpu", 2

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(30, 64)
        self.norm = nn.LayerNorm(64)
        self.fc2 = nn.Linear(64, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.norm(self.fc1(x))))

x = torch.randn(960, 30)
y = x[:, [0, 5, 9]].argmax(dim=1)
loader = DataLoader(TensorDataset(x, y), batch_size=40, shuffle=True, drop_last=True)
model = Net().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
criterion = nn.CrossEntropyLoss()
scaler = GradScaler(device, init_scale=2.0 ** 23, growth_interval=50)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=8 * len(loader) // accum)

for epoch in range(8):
    loss_avg, skipped = 0.0, 0
    optimizer.zero_grad()
    for step, (bx, by) in enumerate(loader, start=1):
        with autocast(device, dtype=torch.float16):
            out = model(bx)
            loss = criterion(out, by)
        scaler.scale(loss / accum).backward()
        loss_avg += loss.item() / len(loader)
        if step % accum == 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            old = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if scaler.get_scale() < old:
                skipped += 1
            else:
                scheduler.step()
    print(f"epoch {epoch}: loss {loss_avg:.4f}, scale {scaler.get_scale():.0f}, skipped {skipped}")
