"""The gradients of two tasks are taken by autograd.grad, their conflict is projected out, and the sum is written into .grad for the optimiser, with no call of backward at all."""
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

torch.set_num_threads(1)
torch.manual_seed(71)


def flat_grad(loss, params, retain):
    g = torch.autograd.grad(loss, params, retain_graph=retain)
    return torch.cat([t.reshape(-1) for t in g])


def project(a, b):
    dot = torch.dot(a, b)
    return a - dot / b.dot(b) * b if dot < 0 else a


net = nn.Sequential(nn.Linear(7, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 2))
params = list(net.parameters())
print("parameters:", parameters_to_vector(params).numel())
optimizer = torch.optim.Adam(params, lr=4e-3)
x = torch.randn(960, 7)
t1, t2 = torch.sin(x[:, 0] + x[:, 1]), (x[:, 0] - x[:, 1]).abs()
for epoch in range(10):
    sums, conflicts = [0.0, 0.0], 0
    for idx in torch.randperm(960).view(-1, 48):
        out = net(x[idx])
        l1 = (out[:, 0] - t1[idx]).square().mean()
        l2 = (out[:, 1] - t2[idx]).square().mean()
        g1, g2 = flat_grad(l1, params, True), flat_grad(l2, params, False)
        conflicts += int(torch.dot(g1, g2) < 0)
        merged, at = project(g1, g2) + project(g2, g1), 0
        for p in params:
            p.grad = merged[at:at + p.numel()].view_as(p).clone()
            at += p.numel()
        optimizer.step()
        sums[0] += l1.item(); sums[1] += l2.item()
    print(f"epoch {epoch}: {sums[0] / 20:.4f} {sums[1] / 20:.4f} conflicts {conflicts}/20")
