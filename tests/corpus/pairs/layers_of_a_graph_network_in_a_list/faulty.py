import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

N_NODES = 10
teacher = [torch.randn(6, 6), torch.randn(6, 6)]


def graphs(n):
    a = (torch.rand(n, N_NODES, N_NODES) < 0.3).float()
    a = ((a + a.transpose(1, 2)) > 0).float() + torch.eye(N_NODES)
    a = a / a.sum(2, keepdim=True)
    h = x = torch.randn(n, N_NODES, 6)
    for w in teacher:
        h = torch.tanh(a @ h @ w)
    return a, x, h.mean(1).sum(1, keepdim=True)


class GCN(nn.Module):
    def __init__(self, n_layers, hidden):
        super().__init__()
        self.layers = [nn.Linear(6 if i == 0 else hidden, hidden) for i in range(n_layers)]
        self.fc1 = nn.Linear(hidden, 16)
        self.fc2 = nn.Linear(16, 1)

    def forward(self, a, x):
        for layer in self.layers:
            x = torch.tanh(layer(a @ x))
        return self.fc2(F.relu(self.fc1(x.mean(1))))


model = GCN(2, 12)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
a, x, y = graphs(512)
for epoch in range(15):
    for i in range(0, 512, 32):
        optimizer.zero_grad()
        loss = F.mse_loss(model(a[i:i + 32], x[i:i + 32]), y[i:i + 32])
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} {loss.item():.4f}")
a, x, y = graphs(1000)
with torch.no_grad():
    print(f"final error: {F.mse_loss(model(a, x), y).item():.4f}")
