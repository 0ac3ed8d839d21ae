import os
import copy
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))
gamma, tau, max_steps = 0.95, 0.1, 15

class Pendulumish:
    """never ends by itself: the wrapper stops it after max_steps"""
    def reset(self):
        self.x, self.steps = torch.rand(2) * 2 - 1, 0
        return self.x.clone()

    def step(self, action):
        self.x = (self.x + 0.1 * action + 0.05 * torch.randn(2)).clamp(-1, 1)
        self.steps += 1
        timeout = self.steps >= max_steps
        return self.x.clone(), 1.0, timeout, {"terminal": False}

class Replay:
    def __init__(self):
        self.data = []

    def add(self, *item):
        self.data.append(item)

    def sample(self, n):
        idx = torch.randint(len(self.data), (n,))
        s, r, s2, d = zip(*[self.data[i] for i in idx])
        return torch.stack(s), torch.tensor(r), torch.stack(s2), torch.tensor(d)

env, memory = Pendulumish(), Replay()
critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
critic_target = copy.deepcopy(critic)
optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
obs = env.reset()
for t in range(900):
    new_obs, r, done, info = env.step(torch.rand(2) * 2 - 1)
    memory.add(obs, r, new_obs, float(done))
    obs = env.reset() if done else new_obs
    if t < 64:
        continue
    state, reward, next_state, done = memory.sample(64)
    with torch.no_grad():
        target = reward + gamma * (1 - done) * critic_target(next_state).squeeze(1)
    loss = nn.functional.mse_loss(critic(state).squeeze(1), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for p, tp in zip(critic.parameters(), critic_target.parameters()):
            tp.mul_(1 - tau).add_(tau * p)
    if t % 300 == 299:
        print(f"t {t + 1} critic loss {loss.item():.4f}")
with torch.no_grad():
    value = critic(torch.rand(500, 2) * 2 - 1).mean().item()
print(f"mean value {value:.3f}")
print(f"final error: {abs(value * (1 - gamma) - 1):.4f}")
