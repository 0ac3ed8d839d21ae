import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class TorchScheduler:
    def __init__(self, scheduler_class, **kwargs):
        self.scheduler_class, self.kwargs = scheduler_class, kwargs

    def hook(self, optimizer):
        self.instance = self.scheduler_class(optimizer, **self.kwargs)
        return self.instance

class PINN:
    """u' = cos(3 t), u(0) = 0 on [0, 2]"""
    def __init__(self, model, lr, scheduler=None):
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        scheduler = scheduler or TorchScheduler(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
        self.scheduler = scheduler.hook(self.optimizer)

    def residual(self, t):
        t = t.requires_grad_(True)
        u = self.model(t)
        du = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
        return (du - torch.cos(3 * t)).pow(2).mean() + self.model(torch.zeros(1, 1)).pow(2).mean()

    def fit(self, epochs, steps=12):
        for epoch in range(epochs):
            for _ in range(steps):
                loss = self.residual(2 * torch.rand(64, 1))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            self.scheduler.step()
            print(f"epoch {epoch} loss {loss.item():.5f}")

net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
solver = PINN(net, lr=0.01)
solver.fit(epochs=5)
print(f"final error: {solver.residual(torch.linspace(0, 2, 200).unsqueeze(1)).item():.5f}")
