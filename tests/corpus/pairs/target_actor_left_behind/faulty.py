import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import copy

state, gamma, tau = 3, 0.8, 0.05
actor = nn.Sequential(nn.Linear(state, 32), nn.ReLU(), nn.Linear(32, 1), nn.Tanh())
critic = nn.Sequential(nn.Linear(state + 1, 64), nn.ReLU(), nn.Linear(64, 1))
slow_actor, slow_critic = copy.deepcopy(actor), copy.deepcopy(critic)
a_opt = torch.optim.Adam(actor.parameters(), lr=3e-3)
c_opt = torch.optim.Adam(critic.parameters(), lr=5e-3)


def reward(s, a):
    return 1 - 4 * (a.squeeze(1) - s[:, 0].clamp(-1, 1)) ** 2


def follow(slow, fast):
    for p, q in zip(slow.parameters(), fast.parameters()):
        p.data.mul_(1 - tau).add_(tau * q.data)


for step in range(500):
    s, s2 = torch.randn(64, state), torch.randn(64, state)
    a = torch.rand(64, 1) * 2 - 1
    with torch.no_grad():
        ahead = slow_critic(torch.cat([s2, slow_actor(s2)], 1)).squeeze(1)
        target = reward(s, a) + gamma * ahead
    c_loss = F.mse_loss(critic(torch.cat([s, a], 1)).squeeze(1), target)
    c_opt.zero_grad()
    c_loss.backward()
    c_opt.step()
    a_loss = -critic(torch.cat([s, actor(s)], 1)).mean()
    a_opt.zero_grad()
    a_loss.backward()
    a_opt.step()
    follow(slow_critic, critic)
    if step % 100 == 99:
        print(f"step {step + 1} critic {c_loss.item():.4f} actor {a_loss.item():.4f}")
with torch.no_grad():
    s = torch.randn(2000, state)
    worth = reward(s, actor(s))
    print(f"final error: {abs(critic(torch.cat([s, actor(s)], 1)).mean().item() - worth.mean().item() / (1 - gamma)):.4f}")
