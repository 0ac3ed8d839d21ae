import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

S, A, gamma = 6, 4, 0.9
allowed = torch.rand(S, A) < 0.4
allowed[:, 0] = True
pay = torch.where(allowed, torch.rand(S, A), torch.zeros(()))
goes = torch.randint(0, S, (S, A))
true = torch.zeros(S)
for _ in range(200):
    true = (pay + gamma * true[goes]).masked_fill(~allowed, -1e9).max(1).values
code = torch.eye(S)
q, slow = nn.Linear(S, A), nn.Linear(S, A)
nn.init.constant_(q.bias, 12.0)
slow.load_state_dict(q.state_dict())
optimizer = torch.optim.Adam(q.parameters(), lr=5e-2)
for step in range(700):
    s = torch.randint(0, S, (64,))
    a = torch.multinomial(allowed[s].float(), 1).squeeze(1)
    following = goes[s, a]
    with torch.no_grad():
        ahead = slow(code[following])
        ahead = ahead.masked_fill(~allowed[following], -1e9).max(1).values
        target = pay[s, a] + gamma * ahead
    loss = F.smooth_l1_loss(q(code[s]).gather(1, a[:, None]).squeeze(1), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        slow.load_state_dict(q.state_dict())
    if step % 175 == 174:
        print(f"step {step + 1} loss {loss.item():.4f}")
with torch.no_grad():
    guess = q(code).masked_fill(~allowed, -1e9).max(1).values
    print(f"final error: {(guess - true).abs().mean().item():.4f}")
