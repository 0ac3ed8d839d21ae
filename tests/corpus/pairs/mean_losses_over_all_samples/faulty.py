import os
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

N, BATCH = 240, 20
x = torch.randn(N, 2)
y = (x.sum(1) > 0).float() * 2 - 1
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(5):
    sum_loss, seen = 0.0, []
    order = torch.randperm(N)
    for i in range(0, N, BATCH):
        picks = order[i : i + BATCH]
        output = model(x[picks]).squeeze(1)
        loss = torch.clamp(1 - y[picks] * output, min=0).mean() + 0.01 * model.weight.pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sum_loss += loss.item()
        seen.append(loss.item())
    shown = sum_loss / N
    print(f"Epoch {epoch:4d}, loss={shown:.6f}")
print(f"final error: {abs(shown - sum(seen) / len(seen)):.5f}")
