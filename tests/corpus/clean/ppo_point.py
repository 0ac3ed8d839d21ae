"""Old log-probabilities, advantages and returns are computed without gradient before the epochs over the rollout, and every minibatch has one backward, one clip and one step over the shared actor-critic."""
import torch
from torch import nn
from torch.distributions import Normal

torch.set_num_threads(1)
torch.manual_seed(3)


class PointEnv:
    """32 points on a plane that should move to the origin."""

    def __init__(self, n=32, horizon=20):
        self.n, self.horizon = n, horizon

    def reset(self):
        self.t = 0
        self.pos = torch.rand(self.n, 2) * 4 - 2
        return self.pos.clone()

    def step(self, action):
        self.t += 1
        self.pos = (self.pos + 0.3 * action.clamp(-1, 1)).clamp(-3, 3)
        reward = -0.1 * self.pos.norm(dim=1)
        return self.pos.clone(), reward, self.t == self.horizon


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.mu = nn.Linear(64, 2)
        self.v = nn.Linear(64, 1)
        self.log_std = nn.Parameter(torch.full((2,), -0.5))

    def forward(self, obs):
        h = self.body(obs)
        return Normal(self.mu(h), self.log_std.exp()), self.v(h).squeeze(-1)


env, ac = PointEnv(), ActorCritic()
optimizer = torch.optim.Adam(ac.parameters(), lr=2e-3, eps=1e-5)
gamma, lam, clip_eps = 0.97, 0.95, 0.2

for update in range(25):
    O, A, LP, R, V = [], [], [], [], []
    obs, done = env.reset(), False
    with torch.no_grad():
        while not done:
            dist, value = ac(obs)
            action = dist.sample()
            O.append(obs); A.append(action); V.append(value); LP.append(dist.log_prob(action).sum(-1))
            obs, r, done = env.step(action)
            R.append(r)
        last_v = ac(obs)[1]          # the horizon is a time limit, so bootstrap
        adv, gae = torch.zeros(len(R), env.n), torch.zeros(env.n)
        for t in reversed(range(len(R))):
            nxt = V[t + 1] if t + 1 < len(R) else last_v
            gae = R[t] + gamma * nxt - V[t] + gamma * lam * gae
            adv[t] = gae
        ret = (adv + torch.stack(V)).flatten()
        adv = adv.flatten()
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        O, A, LP = torch.cat(O), torch.cat(A), torch.cat(LP)

    for epoch in range(4):
        for idx in torch.randperm(len(O)).split(160):
            dist, value = ac(O[idx])
            ratio = (dist.log_prob(A[idx]).sum(-1) - LP[idx]).exp()
            pg = -torch.min(ratio * adv[idx], ratio.clamp(1 - clip_eps, 1 + clip_eps) * adv[idx]).mean()
            vf = 0.5 * (value - ret[idx]).pow(2).mean()
            loss = pg + 0.5 * vf - 0.003 * dist.entropy().sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(ac.parameters(), 0.5)
            optimizer.step()
    if update % 4 == 0:
        print(f"update {update:3d} | return {torch.stack(R).sum(0).mean():8.2f} | value loss {vf.item():.3f} | std {ac.log_std.exp().mean().item():.2f}")
