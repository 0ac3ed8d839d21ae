import os, random
import torch
from torch import nn
from torch.distributions import Categorical

torch.set_num_threads(1)
seed = int(os.environ.get("SEED", 0))
torch.manual_seed(seed); random.seed(seed)

class Corridor:
    """reach the flagged end of a corridor; reward only there"""
    def reset(self):
        self.pos, self.t, self.goal = 3, 0, random.choice([0, 6])
        return self.obs()
    def obs(self):
        o = torch.zeros(8)
        o[self.pos] = 1.0
        o[7] = 1.0 if self.goal else -1.0
        return o
    def step(self, a):
        self.pos += 1 if a else -1
        self.t += 1
        done = self.pos in (0, 6) or self.t >= 20
        reward = (1.0 if self.pos == self.goal else -1.0) if done else 0.0
        return self.obs(), reward, done

net = nn.Sequential(nn.Linear(8, 32), nn.Tanh())
pi, v = nn.Linear(32, 2), nn.Linear(32, 1)
params = [*net.parameters(), *pi.parameters(), *v.parameters()]
opt = torch.optim.Adam(params, lr=1e-2)
env, gamma = Corridor(), 0.99

def accumulate(rewards, done, value):
    running = 0.0 if done else value
    out = []
    for r in reversed(rewards[:-1]):
        running = r + gamma * running
        out.append(running)
    return out[::-1]

def play():
    s, done, obs, acts, rews = env.reset(), False, [], [], []
    while not done:
        with torch.no_grad():
            a = Categorical(logits=pi(net(s))).sample()
        obs.append(s); acts.append(a)
        s, r, done = env.step(a.item())
        rews.append(r)
    return obs, acts, rews

history = []
for episode in range(400):
    obs, acts, rews = play()
    history.append(rews[-1])
    ret = torch.tensor(accumulate(rews, True, 0.0))
    h = net(torch.stack(obs[:len(ret)]))
    value = v(h).squeeze(1)
    dist = Categorical(logits=pi(h))
    adv = ret - value.detach()
    loss = -(adv * dist.log_prob(torch.stack(acts[:len(ret)]))).mean() + 0.5 * (ret - value).pow(2).mean() - 0.01 * dist.entropy().mean()
    opt.zero_grad(); loss.backward(); opt.step()
    if episode % 100 == 99:
        print("episode", episode + 1, "mean reward", sum(history[-100:]) / 100)
wins = sum(play()[2][-1] > 0 for _ in range(200))
print("final error: %.4f" % (1 - wins / 200))
