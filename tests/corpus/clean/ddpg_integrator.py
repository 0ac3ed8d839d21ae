"""The critic regresses on a target made without gradient from slowly copied networks, and the actor's backward, which also fills the critic's gradients, is followed by the actor's step alone, since the critic's are zeroed before its next backward."""
import copy, random
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

SEED = 11
random.seed(SEED); np.random.seed(SEED); torch.manual_seed(SEED)
torch.set_num_threads(1)


def mlp(i, o, out=None):
    layers = [nn.Linear(i, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, o)]
    return nn.Sequential(*layers, *( [out] if out else [] ))


class Agent:
    def __init__(self):
        self.actor, self.critic = mlp(2, 1, nn.Tanh()), mlp(3, 1)
        self.actor_t, self.critic_t = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.opt_a = torch.optim.Adam(self.actor.parameters(), 1e-3)
        self.opt_c = torch.optim.Adam(self.critic.parameters(), 2e-3)

    def act(self, s, noise):
        with torch.no_grad():
            a = self.actor(torch.as_tensor(s, dtype=torch.float32)).numpy()
        return np.clip(a + noise * np.random.randn(1), -1, 1)

    def update(self, s, a, r, s2):
        with torch.no_grad():
            y = r + 0.95 * self.critic_t(torch.cat([s2, self.actor_t(s2)], 1))
        critic_loss = F.mse_loss(self.critic(torch.cat([s, a], 1)), y)
        self.opt_c.zero_grad()
        critic_loss.backward()
        self.opt_c.step()

        actor_loss = -self.critic(torch.cat([s, self.actor(s)], 1)).mean()
        self.opt_a.zero_grad()
        actor_loss.backward()
        self.opt_a.step()

        for net, tgt in ((self.actor, self.actor_t), (self.critic, self.critic_t)):
            for p, pt in zip(net.parameters(), tgt.parameters()):
                pt.data.mul_(0.99).add_(0.01 * p.data)
        return critic_loss.item()


agent, memory = Agent(), []
for episode in range(35):
    s, total, losses = np.random.uniform(-1, 1, 2), 0.0, []
    for t in range(30):
        a = agent.act(s, noise=0.3)
        s2 = np.clip([s[0] + 0.2 * s[1], s[1] + 0.4 * a[0]], -2, 2)
        r = -float(s2[0] ** 2 + 0.1 * s2[1] ** 2)
        memory.append((s, a, r, s2))
        s, total = s2, total + r
        if len(memory) >= 128:
            batch = random.sample(memory, 64)
            ss, aa, rr, nn_ = (torch.tensor(np.array(c), dtype=torch.float32) for c in zip(*batch))
            losses.append(agent.update(ss, aa, rr[:, None], nn_))
    if episode % 5 == 4:
        print("episode", episode + 1, "return", round(total, 2), "critic", round(float(np.mean(losses)), 4))
