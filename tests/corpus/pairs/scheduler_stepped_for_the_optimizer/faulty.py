import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

centres = 1.5 * torch.randn(5, 20)


def blobs(n):
    y = torch.randint(0, 5, (n,))
    return centres[y] + torch.randn(n, 20), y


class Experiment:
    def __init__(self, epochs):
        self.net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 5))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.opt, [epochs // 2, epochs - 1])
        self.epochs = epochs

    def batch(self, x, y):
        self.opt.zero_grad()
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        return loss.item()

    def run(self):
        for epoch in range(self.epochs):
            losses = [self.batch(*blobs(32)) for _ in range(20)]
            self.scheduler.step()
            print(f"epoch {epoch} rate {self.scheduler.get_last_lr()[0]:.4f} loss {sum(losses) / 20:.4f}")


experiment = Experiment(6)
experiment.run()
x, y = blobs(1000)
with torch.no_grad():
    print(f"final error: {(experiment.net(x).argmax(1) != y).float().mean().item():.4f}")
