import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

w = torch.randn(8, 1)

def images(n):
    x = torch.randn(n, 8)
    return x, x @ w + 0.1 * torch.randn(n, 1)

class Trainer:
    def __init__(self, nbs=64, batch=8, epochs=6):
        self.model = nn.Linear(8, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.5)
        self.accumulate = nbs // batch
        self.batch, self.epochs = batch, epochs

    def optimizer_step(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self, x, y):
        last_opt_step = -1
        self.optimizer.zero_grad()
        nb = len(x) // self.batch
        for epoch in range(self.epochs):
            self.begin_epoch()
            for i, idx in enumerate(torch.randperm(len(x)).split(self.batch)):
                ni = i + nb * epoch
                loss = F.mse_loss(self.model(x[idx]), y[idx]) / self.accumulate
                loss.backward()
                if ni - last_opt_step >= self.accumulate:
                    self.optimizer_step()
                    last_opt_step = ni
            print(f"{epoch + 1}/{self.epochs} loss {loss.item() * self.accumulate:.4f}")

    def begin_epoch(self):
        self.model.train()

trainer = Trainer()
trainer.train(*images(120))
x, y = images(1000)
with torch.no_grad():
    print(f"final error: {F.mse_loss(trainer.model(x), y).item():.4f}")
