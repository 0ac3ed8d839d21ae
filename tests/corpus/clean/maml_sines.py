"""Fast weights come from autograd.grad with create_graph, the query losses of the tasks are averaged into one meta loss, and the meta optimiser alone changes the initial weights."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call

torch.manual_seed(0)
torch.set_num_threads(1)
INNER_LR, META_BATCH, SHOTS = 0.05, 5, 10
net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
meta_opt = torch.optim.Adam(net.parameters(), lr=2e-3)


def sample_task():
    amp, phase = torch.rand(1) * 4 + 1, torch.rand(1) * 3.14
    def draw():
        x = torch.rand(SHOTS, 1) * 10 - 5
        return x, amp * torch.sin(x + phase)
    return draw(), draw()


def adapt(params, x, y, steps, create_graph):
    for _ in range(steps):
        inner = F.mse_loss(functional_call(net, params, (x,)), y)
        grads = torch.autograd.grad(inner, list(params.values()), create_graph=create_graph)
        params = {k: p - INNER_LR * g for (k, p), g in zip(params.items(), grads)}
    return params


before, after = 0.0, 0.0
for it in range(1, 401):
    meta_loss = 0.0
    theta = dict(net.named_parameters())
    for _ in range(META_BATCH):
        (xs, ys), (xq, yq) = sample_task()
        fast = adapt(theta, xs, ys, steps=1, create_graph=True)
        q = F.mse_loss(functional_call(net, fast, (xq,)), yq)
        meta_loss = meta_loss + q / META_BATCH
    meta_opt.zero_grad()
    meta_loss.backward()
    meta_opt.step()
    after += meta_loss.item()
    if it % 80 == 0:
        print(f"iter {it:4d}  query loss after adaptation: {after / 80:.3f}")
        after = 0.0

# meta test with five inner steps
scores = []
for _ in range(20):
    (xs, ys), (xq, yq) = sample_task()
    fast = adapt({k: v.detach().requires_grad_(True) for k, v in net.named_parameters()}, xs, ys, 5, False)
    with torch.no_grad():
        scores.append(F.mse_loss(functional_call(net, fast, (xq,)), yq))
print("test tasks:", torch.stack(scores).mean().item())
