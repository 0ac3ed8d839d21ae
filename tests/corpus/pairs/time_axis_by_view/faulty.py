import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

lookback = 12

def ar_series(n):
    """windows of an autoregressive process and the value that follows"""
    phi = torch.tensor([1.5, -0.8])
    s = torch.zeros(n, lookback + 21)
    e = torch.randn(n, lookback + 21)
    for t in range(2, s.size(1)):
        s[:, t] = phi[0] * s[:, t - 1] + phi[1] * s[:, t - 2] + e[:, t] * 0.3
    s = s[:, -(lookback + 1):]
    return s[:, :-1], s[:, -1]

class LSTM(nn.Module):
    def __init__(self, hidden_dim=24):
        super().__init__()
        self.lstm = nn.LSTM(1, hidden_dim, num_layers=1)
        self.linear = nn.Linear(hidden_dim, 1)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.linear(out[-1]).view(-1)

def to_sequence(X):
    X = X.contiguous().view([lookback, -1, 1])
    return X

X_train, y_train = ar_series(300)
X_test, y_test = ar_series(500)
X_train, X_test = to_sequence(X_train), to_sequence(X_test)
model = LSTM()
loss_fn = torch.nn.MSELoss()
optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
hist = torch.zeros(60)
for t in range(60):
    y_pred = model(X_train)
    loss = loss_fn(y_pred, y_train)
    hist[t] = loss.item()
    if t % 15 == 14:
        print("Epoch", t, "MSE:", round(loss.item(), 4))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
with torch.no_grad():
    print(f"final error: {loss_fn(model(X_test), y_test).item():.4f}")
