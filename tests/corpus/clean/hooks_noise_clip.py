"""Tensor hooks clamp and perturb each gradient as it arrives and a centring hook removes the column mean of matrices, as intended, so the step is made on these gradients."""
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(8)

net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
state = {"step": 0}


def centralise(g):
    return g - g.mean(dim=1, keepdim=True)


def noisy(g):
    sigma = (0.01 / (1 + state["step"]) ** 0.55) ** 0.5
    return g + 0.1 * sigma * torch.randn_like(g)


for p in net.parameters():
    if p.dim() > 1:
        p.register_hook(centralise)
    p.register_hook(lambda g: g.clamp(-0.5, 0.5))
    p.register_hook(noisy)

inputs = torch.randn(800, 12)
angle = inputs[:, 0] * 1.5
targets = torch.stack([angle.sin(), angle.cos()], 1)
for epoch in range(15):
    total = 0.0
    for chunk in torch.randperm(800).chunk(16):
        opt.zero_grad()
        loss = nn.functional.smooth_l1_loss(net(inputs[chunk]), targets[chunk])
        loss.backward()
        opt.step()
        state["step"] += 1
        total += loss.item() * len(chunk)
    if epoch % 3 == 2:
        print(f"epoch {epoch + 1}: {total / 800:.4f}")
