import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

LENGTH, gamma = 6, 0.95


def walk(n):
    s = torch.randint(0, LENGTH, (n,))
    over = s == LENGTH - 1
    return s, over.float(), torch.where(over, torch.randint(0, LENGTH, (n,)), (s + 1).clamp(max=LENGTH - 1)), over.float()


value = nn.Sequential(nn.Linear(LENGTH, 32), nn.Tanh(), nn.Linear(32, 1))
slow = nn.Sequential(nn.Linear(LENGTH, 32), nn.Tanh(), nn.Linear(32, 1))
slow.load_state_dict(value.state_dict())
optimizer = torch.optim.Adam(value.parameters(), lr=1e-2)
code = torch.eye(LENGTH)
for step in range(400):
    s, reward, following, done = walk(32)
    with torch.no_grad():
        ahead = slow(code[following]).squeeze(1)
        target = reward + gamma * (1 - done) * ahead
    loss = F.mse_loss(value(code[s]).squeeze(1), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        slow.load_state_dict(value.state_dict())
    if step % 100 == 99:
        print(f"step {step + 1} loss {loss.item():.4f}")
true = gamma ** torch.arange(LENGTH - 1, -1, -1).float()
with torch.no_grad():
    print(f"final error: {(value(code).squeeze(1) - true).abs().mean().item():.4f}")
