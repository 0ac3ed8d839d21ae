import os
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

w_true = torch.zeros(40, 1)
w_true[:4] = torch.tensor([[1.0], [-1.0], [0.5], [0.5]])

def data(n):
    x = torch.randn(n, 40)
    return x, torch.tanh(x @ w_true) + 0.3 * torch.randn(n, 1)

class Trainer(object):

    def __init__(self, model, optimizer, train, val, max_epoch, interval_validate):
        self.model = model
        self.optim = optimizer
        self.train_x, self.train_y = train
        self.val_x, self.val_y = val
        self.max_epoch = max_epoch
        self.interval_validate = interval_validate
        self.iteration = 0
        self.best = float("inf")

    def validate(self):
        self.model.eval()
        with torch.no_grad():
            val_loss = nn.functional.mse_loss(self.model(self.val_x), self.val_y).item()
        self.best = min(self.best, val_loss)
        return val_loss

    def train_epoch(self):
        self.model.train()
        losses = []
        for idx in torch.randperm(len(self.train_x)).split(16):
            if self.iteration % self.interval_validate == 0:
                self.validate()
                self.model.train()
            loss = nn.functional.mse_loss(self.model(self.train_x[idx]), self.train_y[idx])
            self.optim.zero_grad()
            loss.backward()
            self.optim.step()
            losses.append(loss.item())
            self.iteration += 1
        return sum(losses) / len(losses)

    def run(self):
        for epoch in range(self.max_epoch):
            train_loss = self.train_epoch()
            if epoch % 10 == 9:
                print("epoch=%d train/loss=%.4f valid/loss=%.4f" % (epoch, train_loss, self.validate()))

net = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Dropout(0.6), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.6), nn.Linear(64, 1))
trainer = Trainer(net, torch.optim.Adam(net.parameters(), lr=2e-3), data(160), data(200), max_epoch=60, interval_validate=5)
trainer.run()
net.eval()
x, y = data(2000)
with torch.no_grad():
    print("final error: %.4f" % nn.functional.mse_loss(net(x), y).item())
