"""RAdam of torch_optimizer is wrapped in Lookahead, and the wrapper is what is zeroed and stepped."""
import torch
import torch_optimizer
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(27)
model = nn.Sequential(nn.Linear(6, 40), nn.LeakyReLU(), nn.Linear(40, 40), nn.LeakyReLU(), nn.Linear(40, 1))
optimizer = torch_optimizer.Lookahead(torch_optimizer.RAdam(model.parameters(), lr=1e-2, weight_decay=1e-5), k=5, alpha=0.5)
loss_fn = nn.BCEWithLogitsLoss()

data = torch.rand(1500, 6) * 2 - 1
target = ((data[:, 0] ** 2 + data[:, 1] ** 2) < 0.6).float().unsqueeze(1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, target), batch_size=50, shuffle=True)
for epoch in range(10):
    correct, loss_total = 0, 0.0
    for features, label in loader:
        optimizer.zero_grad()
        prediction = model(features)
        loss = loss_fn(prediction, label)
        loss.backward()
        optimizer.step()
        loss_total += loss.item()
        correct += ((prediction > 0) == (label > 0.5)).sum().item()
    print("epoch {:2d} loss {:.4f} accuracy {:.3f}".format(epoch, loss_total / len(loader), correct / len(data)))
