"""Training is saved half-way with model, optimiser, schedule and random state and resumed into new objects, and the resumed run ends at the weights of the uninterrupted one."""
import io
import torch
from torch import nn

torch.set_num_threads(1)
DATA = torch.Generator().manual_seed(1)
X = torch.randn(512, 6, generator=DATA)
Y = (X ** 2).sum(1, keepdim=True) / 6


class Run:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(6, 64), nn.Softplus(), nn.Dropout(0.05), nn.Linear(64, 1))
        self.opt = torch.optim.RMSprop(self.model.parameters(), lr=3e-3, momentum=0.5)
        self.sched = torch.optim.lr_scheduler.ExponentialLR(self.opt, gamma=0.9)
        self.epoch = 0

    def save(self):
        f = io.BytesIO()
        torch.save({"model": self.model.state_dict(), "opt": self.opt.state_dict(), "sched": self.sched.state_dict(), "epoch": self.epoch, "rng": torch.get_rng_state()}, f)
        f.seek(0)
        return f

    def load(self, f):
        s = torch.load(f)
        self.model.load_state_dict(s["model"])
        self.opt.load_state_dict(s["opt"])
        self.sched.load_state_dict(s["sched"])
        self.epoch = s["epoch"]
        torch.set_rng_state(s["rng"])

    def train(self, until, verbose=True):
        self.model.train()
        while self.epoch < until:
            total = 0.0
            for idx in torch.randperm(len(X)).split(64):
                self.opt.zero_grad()
                loss = nn.functional.mse_loss(self.model(X[idx]), Y[idx])
                loss.backward()
                self.opt.step()
                total += loss.item() * len(idx)
            self.sched.step()
            self.epoch += 1
            if verbose:
                print(f"epoch {self.epoch}: {total / len(X):.5f} (lr {self.sched.get_last_lr()[0]:.2e})")


torch.manual_seed(0)
first = Run()
first.train(6)
checkpoint = first.save()
first.train(12, verbose=False)

print("resumed")
second = Run()
second.load(checkpoint)
second.train(12)
same = all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters()))
print("equal to the uninterrupted run:", same)
