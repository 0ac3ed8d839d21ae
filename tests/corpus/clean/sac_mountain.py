"""Twin critics share one target made without gradient, the actor's loss freezes the critics while it passes through them, and the temperature has its own optimiser on a detached log-probability."""
from collections import deque
import random
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(0); random.seed(0)

def mlp(sizes):
    mods = []
    for a, b in zip(sizes[:-2], sizes[1:-1]):
        mods += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*mods, nn.Linear(sizes[-2], sizes[-1]))

class TwinQ(nn.Module):
    def __init__(self):
        super().__init__()
        self.q1, self.q2 = mlp([3, 48, 48, 1]), mlp([3, 48, 48, 1])
    def forward(self, s, a):
        x = torch.cat([s, a], -1)
        return self.q1(x), self.q2(x)

policy, q, q_targ = mlp([2, 48, 48, 2]), TwinQ(), TwinQ().requires_grad_(False)
q_targ.load_state_dict(q.state_dict())
log_alpha = torch.zeros((), requires_grad=True)
pi_opt = torch.optim.Adam(policy.parameters(), 2e-3)
q_opt = torch.optim.Adam(q.parameters(), 2e-3)
alpha_opt = torch.optim.Adam([log_alpha], 5e-3)

def sample_action(s):
    mu, log_std = policy(s).chunk(2, -1)
    std = log_std.clamp(-4, 1).exp()
    u = mu + std * torch.randn_like(mu)
    logp = (torch.distributions.Normal(mu, std).log_prob(u) - 2 * (0.6931 - u - F.softplus(-2 * u))).sum(-1, keepdim=True)
    return torch.tanh(u), logp

buf, gamma, tau = deque(maxlen=5000), 0.95, 0.02
for ep in range(30):
    s, ret, ql = torch.rand(2) * 2 - 1, 0.0, []
    for t in range(25):
        with torch.no_grad():
            a = sample_action(s)[0]
        s2 = torch.stack([(s[0] + 0.25 * s[1]).clamp(-2, 2), (s[1] + 0.5 * a[0]).clamp(-2, 2)])
        r = -(s2[0] ** 2 + 0.1 * s2[1] ** 2 + 0.01 * a[0] ** 2)
        buf.append((s, a, r.view(1), s2)); s = s2; ret += r.item()
        if len(buf) < 100: continue
        S, A, R, S2 = map(torch.stack, zip(*random.sample(buf, 64)))
        with torch.no_grad():
            a2, lp2 = sample_action(S2)
            y = R + gamma * (torch.min(*q_targ(S2, a2)) - log_alpha.exp() * lp2)
        p1, p2 = q(S, A)
        q_loss = F.mse_loss(p1, y) + F.mse_loss(p2, y)
        q_opt.zero_grad(); q_loss.backward(); q_opt.step()
        q.requires_grad_(False)
        a_new, lp = sample_action(S)
        pi_loss = (log_alpha.exp().detach() * lp - torch.min(*q(S, a_new))).mean()
        pi_opt.zero_grad(); pi_loss.backward(); pi_opt.step()
        q.requires_grad_(True)
        a_loss = -(log_alpha.exp() * (lp.detach() - 1.0)).mean()     # target entropy -1
        alpha_opt.zero_grad(); a_loss.backward(); alpha_opt.step()
        with torch.no_grad():
            for w, wt in zip(q.parameters(), q_targ.parameters()):
                wt.lerp_(w, tau)
        ql.append(q_loss.item())
    if ep % 5 == 4:
        print(f"ep {ep + 1:2d} return {ret:7.2f} q_loss {sum(ql) / len(ql):.3f} alpha {log_alpha.exp().item():.3f}")
