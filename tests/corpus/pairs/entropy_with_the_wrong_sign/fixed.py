import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.distributions import Categorical

payoff = 0.5 * torch.rand(20)
payoff[torch.randint(0, 20, (1,))] = 1.0
policy = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 20))
value = nn.Linear(1, 1)
optimizer = torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=2e-2)
state = torch.ones(16, 1)
for update in range(300):
    with torch.no_grad():
        actions = Categorical(logits=policy(state)).sample()
    rewards = payoff[actions] + 0.05 * torch.randn(16)
    dist, guess = Categorical(logits=policy(state)), value(state).squeeze(1)
    advantage = rewards - guess.detach()
    policy_loss = -(dist.log_prob(actions) * advantage).mean()
    entropy_loss = -dist.entropy().mean()
    loss = policy_loss + 1.0 * entropy_loss + 0.5 * F.mse_loss(guess, rewards)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if update % 60 == 59:
        print(f"update {update + 1} reward {rewards.mean().item():.3f} entropy {dist.entropy().mean().item():.3f}")
with torch.no_grad():
    best = policy(state[:1]).argmax().item()
    print(f"final error: {(payoff.max() - payoff[best]).item():.4f}")
