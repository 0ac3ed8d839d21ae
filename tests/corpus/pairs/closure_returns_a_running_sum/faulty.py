import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class ODESolver:
    """y'' + y = 0, y(0) = 0, y'(0) = 1"""
    def __init__(self, net):
        self.net = net
        self.optimizer = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=15, line_search_fn="strong_wolfe")
        self.history = []

    def solution(self, t):
        return t + t ** 2 * self.net(t)

    def residual(self, t):
        t = t.clone().requires_grad_(True)
        y = self.solution(t)
        dy = torch.autograd.grad(y.sum(), t, create_graph=True)[0]
        ddy = torch.autograd.grad(dy.sum(), t, create_graph=True)[0]
        return (ddy + y).pow(2).mean()

    def run_epoch(self, t):
        self.closure_loss = 0.0

        def closure():
            self.optimizer.zero_grad()
            loss = self.residual(t)
            loss.backward()
            self.closure_loss += loss.item()
            return self.closure_loss

        self.optimizer.step(closure)
        self.history.append(self.closure_loss)

    def fit(self, max_epochs):
        t = torch.linspace(0, 3, 40).unsqueeze(1)
        for epoch in range(max_epochs):
            self.run_epoch(t)
            print(f"epoch {epoch} loss {self.history[-1]:.6f}")


net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
solver = ODESolver(net)
solver.fit(max_epochs=6)
t = torch.linspace(0, 3, 100).unsqueeze(1)
with torch.no_grad():
    error = (solver.solution(t) - torch.sin(t)).pow(2).mean().item()
print(f"final error: {error:.6f}")
