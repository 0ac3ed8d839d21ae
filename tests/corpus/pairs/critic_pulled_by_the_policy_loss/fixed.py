import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

CITIES = 6


def tours(n):
    x = torch.rand(n, CITIES, 2)
    return x


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32))
        self.actor = nn.Linear(32, 1)
        self.critic = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x):
        h = self.encoder(x)
        return self.actor(h).squeeze(2), self.critic(h.mean(1)).squeeze(1)


def play(agent, x):
    logits, value = agent(x)
    dist = torch.distributions.Categorical(logits=logits)
    choice = dist.sample()
    reward = x[torch.arange(len(x)), choice].sum(1) + 3
    return dist.log_prob(choice), value, reward


agent = Agent()
optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
for step in range(250):
    log_prob, value, reward = play(agent, tours(64))
    advantage = reward - value
    actor_loss = -(advantage.detach() * log_prob).mean()
    critic_loss = F.mse_loss(value, reward)
    loss = actor_loss + critic_loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step} reward {reward.mean().item():.3f} value {value.mean().item():.3f}")
with torch.no_grad():
    _, value, reward = play(agent, tours(2000))
print(f"final error: {F.mse_loss(value, reward).item():.4f}")
