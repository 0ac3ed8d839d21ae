import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import random

random.seed(int(os.environ.get("SEED", 0)))
GAMMA, STATES = 0.9, 12


class Agent:
    def __init__(self):
        self.net = nn.Sequential(nn.Linear(STATES, 32), nn.ReLU(), nn.Linear(32, 1))
        self.opt = torch.optim.Adam(self.net.parameters(), lr=5e-3)
        self.state_replay, self.return_replay = [], []
        self.states, self.rewards = [], []

    def self_play(self, episode):
        # each episode walks through a short stretch of the chain
        self.states.clear()
        self.rewards.clear()
        start = episode * 5 % STATES
        for s in range(start, min(start + 3, STATES)):
            self.states.append(s)
            self.rewards.append(s / STATES + random.gauss(0, 0.05))
        self.state_replay.append(self.states)
        self.return_replay.append(self.rewards)

    def update(self):
        picks = [random.randrange(len(self.state_replay)) for _ in range(8)]
        s = torch.tensor([x for i in picks for x in self.state_replay[i]])
        r = torch.tensor([x for i in picks for x in self.return_replay[i]])
        loss = F.mse_loss(self.net(F.one_hot(s, STATES).float()).squeeze(1), r)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()


agent = Agent()
for episode in range(36):
    agent.self_play(episode)
    for _ in range(20):
        loss = agent.update()
    if episode % 6 == 0:
        print(f"episode {episode} loss {loss:.4f}")
with torch.no_grad():
    value = agent.net(torch.eye(STATES)).squeeze(1)
print(f"final error: {F.mse_loss(value, torch.arange(STATES) / STATES).item():.5f}")
