import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

S, gamma = 5, 0.9
moves = torch.rand(S, S).pow(4)
moves = moves / moves.sum(1, keepdim=True)
pay = torch.randn(S)
true = torch.linalg.solve(torch.eye(S) - gamma * moves, pay)
code = torch.eye(S)
value = nn.Sequential(nn.Linear(S, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(value.parameters(), lr=5e-3)
for step in range(600):
    s = torch.randint(0, S, (64,))
    following = torch.multinomial(moves[s], 1).squeeze(1)
    q = value(code[s]).squeeze(1)
    ahead = value(code[following]).squeeze(1)
    target = pay[s] + gamma * ahead
    loss = F.mse_loss(q, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 150 == 149:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    print(f"final error: {(value(code).squeeze(1) - true).abs().mean().item():.4f}")
