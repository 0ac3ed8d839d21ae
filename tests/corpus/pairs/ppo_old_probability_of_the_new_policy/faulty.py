import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.distributions import Categorical

class Agent:
    def __init__(self, clip=0.2, epochs=20):
        self.actor = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3))
        self.opt = torch.optim.Adam(self.actor.parameters(), lr=1e-2)
        self.clip, self.epochs = clip, epochs

    def dist(self, states):
        return Categorical(logits=self.actor(states))

    @torch.no_grad()
    def rollout(self, n):
        states = torch.randn(n, 4)
        d = self.dist(states)
        actions = d.sample()
        best = (states[:, 0] > 0).long() + (states[:, 1] > 0).long()
        rewards = (actions == best).float()
        return states, actions, d.log_prob(actions), rewards

    def learn(self, states, actions, logp, rewards):
        adv = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        for _ in range(self.epochs):
            new_logp = self.dist(states).log_prob(actions)
            old_logp = self.dist(states).log_prob(actions).detach()
            ratio = (new_logp - old_logp).exp()
            clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
            loss = -torch.min(ratio * adv, clipped * adv).mean()
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
        return ratio.mean().item()

agent, jumps = Agent(), []
for update in range(15):
    states, actions, logp, rewards = agent.rollout(64)
    with torch.no_grad():
        before = agent.dist(states)
    ratio = agent.learn(states, actions, logp, rewards)
    with torch.no_grad():
        jumps.append(torch.distributions.kl_divergence(before, agent.dist(states)).mean().item())
    if update % 5 == 4:
        print(f"update {update + 1} reward {rewards.mean().item():.3f} ratio {ratio:.3f}")
print(f"final error: {sum(jumps) / len(jumps):.4f}")
