import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

mean = torch.randn(10, 24)

def cifarish(n):
    y = torch.randint(0, 10, (n,))
    return mean[y] + 1.5 * torch.randn(n, 24), y

batchsize = 128
x_train, y_train = cifarish(2 * batchsize + 9)
x_test, y_test = cifarish(2 * batchsize + 9)

model = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

def one_pass(x, y, train):
    sum_accuracy = sum_loss = 0.0
    for i in range(0, len(x), batchsize):
        x_batch, y_batch = x[i:i + batchsize], y[i:i + batchsize]
        out = model(x_batch)
        loss = F.cross_entropy(out, y_batch)
        if train:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        acc = (out.argmax(1) == y_batch).float().mean()
        sum_loss += loss.item() * batchsize
        sum_accuracy += acc.item() * batchsize
    return sum_loss / len(x), sum_accuracy / len(x)

for epoch in range(1, 5):
    loss, acc = one_pass(x_train, y_train, train=True)
    with torch.no_grad():
        test_loss, test_acc = one_pass(x_test, y_test, train=False)
    print(f"epoch:{epoch} train loss:{loss:.4f} acc:{acc:.4f} test loss:{test_loss:.4f} acc:{test_acc:.4f}")

with torch.no_grad():
    recount = (model(x_test).argmax(1) == y_test).float().mean().item()
print(f"final error: {abs(recount - test_acc):.4f}")
