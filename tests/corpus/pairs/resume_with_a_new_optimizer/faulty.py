import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

import io

w = torch.randn(20, 1) * torch.logspace(-1.5, 0.5, 20)[:, None]
scale = torch.logspace(-1.0, 1.0, 20)

def batch(n):
    x = torch.randn(n, 20) * scale
    return x, (x / scale) @ w

class WorldModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(20, 1)

    def forward(self, x):
        return self.net(x)

class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.wm = WorldModel()
        self.opt = torch.optim.SGD(self.wm.parameters(), lr=2e-4, momentum=0.9)

    def train_steps(self, n):
        for _ in range(n):
            x, y = batch(64)
            loss = F.mse_loss(self.wm(x), y)
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
        return loss.item()

def save(agent):
    buffer = io.BytesIO()
    torch.save({"agent_state_dict": agent.state_dict(), "optim": agent.opt.state_dict()}, buffer)
    return buffer.getvalue()

def resume(blob):
    checkpoint = torch.load(io.BytesIO(blob))
    agent = Agent()
    agent.load_state_dict(checkpoint["agent_state_dict"])
    return agent

agent = Agent()
for job in range(40):
    loss = agent.train_steps(8)
    if job % 10 == 9:
        print(f"job {job}: model loss {loss:.4f}")
    agent = resume(save(agent))
with torch.no_grad():
    x, y = batch(2000)
    print(f"final error: {F.mse_loss(agent.wm(x), y).item():.4f}")
