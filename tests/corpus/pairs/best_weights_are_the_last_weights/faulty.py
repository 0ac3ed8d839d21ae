import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from copy import deepcopy


def make(n):
    x = torch.randn(n, 12)
    return x, x[:, :1] * x[:, 1:2] + 1.0 * torch.randn(n, 1)


class Imputer:
    """keeps the weights of the best epoch"""
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(12, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.best_loss = float("inf")
        self.best_model_dict = None

    def validate(self, x, y):
        self.model.eval()
        with torch.no_grad():
            return F.mse_loss(self.model(x), y).item()

    def fit(self, train, val, epochs):
        x, y = train
        for epoch in range(epochs):
            self.model.train()
            for i in range(0, len(x), 25):
                self.optimizer.zero_grad()
                loss = F.mse_loss(self.model(x[i:i + 25]), y[i:i + 25])
                loss.backward()
                self.optimizer.step()
            val_loss = self.validate(*val)
            if val_loss < self.best_loss:
                self.best_loss = val_loss
                self.best_model_dict = self.model.state_dict()
        print(f"best validation loss {self.best_loss:.4f}, last {val_loss:.4f}")
        self.model.load_state_dict(self.best_model_dict)


imputer = Imputer()
imputer.fit(make(100), make(400), epochs=60)
x = torch.randn(2000, 12)
with torch.no_grad():
    print(f"final error: {F.mse_loss(imputer.model(x), x[:, :1] * x[:, 1:2]).item():.4f}")
