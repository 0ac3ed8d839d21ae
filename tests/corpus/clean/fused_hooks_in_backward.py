"""Every parameter has an optimiser of its own that steps and clears its gradient as soon as the backward has accumulated it, so there is one backward and one step for every batch."""
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)

model = nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))
lr = 6e-3
optims = {p: torch.optim.AdamW([p], lr=lr, weight_decay=0.01, foreach=False) for p in model.parameters()}
scheds = [torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=400, eta_min=1e-5) for o in optims.values()]


def step_now(p):
    optims[p].step()
    optims[p].zero_grad()


for p in model.parameters():
    p.register_post_accumulate_grad_hook(step_now)

mean = 0.0
for step in range(1, 401):
    x = torch.rand(64, 10) * 2 - 1
    y = torch.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    loss = nn.functional.huber_loss(model(x), y)
    loss.backward()
    for s in scheds:
        s.step()
    mean += loss.item() / 50
    if step % 50 == 0:
        print(f"step {step}: huber {mean:.4f} lr {scheds[0].get_last_lr()[0]:.1e} grads held: {sum(p.grad is not None for p in model.parameters())}")
        mean = 0.0
