import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

gamma, S = 0.9, 6
online = nn.Sequential(nn.Linear(S, 32), nn.Tanh(), nn.Linear(32, 1))
target = nn.Sequential(nn.Linear(S, 32), nn.Tanh(), nn.Linear(32, 1))
with torch.no_grad():
    target[2].bias.fill_(8.0)


class Agent:
    tau = 0.005

    def update_networks(self, tau=None):
        tau = self.tau if tau is None else tau
        for slow, fast in zip(target.parameters(), online.parameters()):
            slow.data.copy_((1 - tau) * slow.data + tau * fast.data)


agent, code = Agent(), torch.eye(S)
optimizer = torch.optim.Adam(online.parameters(), lr=5e-3)
agent.update_networks(tau=1.0)
true, off = torch.full((S,), 0.1 / (1 - gamma)), []
for step in range(300):
    s, following = torch.randint(0, S, (32,)), torch.randint(0, S, (32,))
    with torch.no_grad():
        goal = 0.1 + gamma * target(code[following]).squeeze(1)
    loss = F.mse_loss(online(code[s]).squeeze(1), goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    agent.update_networks()
    with torch.no_grad():
        off.append((online(code).squeeze(1) - true).abs().mean().item())
    if step % 100 == 99:
        print(f"step {step + 1} loss {loss.item():.4f} off {off[-1]:.4f}")
print(f"final error: {sum(off) / len(off):.4f}")
