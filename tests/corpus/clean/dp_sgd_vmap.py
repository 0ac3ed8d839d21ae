"""Per-sample gradients from torch.func are clipped one by one, summed, noised and divided by the batch size into .grad, which the optimiser then uses, as DP-SGD asks."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

torch.manual_seed(7)
torch.set_num_threads(1)
C, SIGMA, BATCH, EPOCHS = 1.0, 0.5, 64, 8

X = torch.randn(1024, 12)
w_true = torch.randn(12, 3)
Y = (X @ w_true).argmax(1)

model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)


def loss_of_one(params, x, y):
    logits = functional_call(model, params, (x.unsqueeze(0),))
    return F.cross_entropy(logits, y.unsqueeze(0))


per_sample_grad = vmap(grad(loss_of_one), in_dims=(None, 0, 0))

for epoch in range(EPOCHS):
    norms = []
    for idx in torch.randperm(len(X)).split(BATCH):
        params = {n: p.detach() for n, p in model.named_parameters()}
        g = per_sample_grad(params, X[idx], Y[idx])
        norm = torch.stack([v.flatten(1).norm(dim=1) for v in g.values()]).norm(dim=0)
        factor = (C / (norm + 1e-6)).clamp(max=1.0)
        for name, p in model.named_parameters():
            clipped = torch.einsum("b,b...->...", factor, g[name])
            p.grad = (clipped + SIGMA * C * torch.randn_like(p)) / len(idx)
        optimizer.step()
        optimizer.zero_grad()
        norms.append(norm)
    with torch.no_grad():
        logits = model(X)
        loss = F.cross_entropy(logits, Y).item()
        acc = (logits.argmax(1) == Y).float().mean().item()
    print(f"epoch {epoch}: loss {loss:.4f} acc {acc:.3f} median sample norm {torch.cat(norms).median():.2f}")
