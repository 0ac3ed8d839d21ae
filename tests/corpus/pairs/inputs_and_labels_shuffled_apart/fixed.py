import os
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))


def synthetic_scans(n, side=10):
    """half of the scans hold a bright blob"""
    images = torch.randn(n, 1, side, side)
    labels = torch.arange(n) % 2
    for k in range(n):
        if labels[k]:
            r, c = torch.randint(0, side - 3, (2,)).tolist()
            images[k, 0, r:r + 3, c:c + 3] += 2.0
    return images, labels


def prepare(images, labels):
    order = torch.randperm(len(images))
    images, labels = images[order], labels[order]
    return images, labels


def train(params):
    images, labels = prepare(*synthetic_scans(params["samples"]))
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(12, 2)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=params["learning_rate"])
    criterion = nn.CrossEntropyLoss()
    for epoch in range(params["num_epochs"]):
        net.train()
        epoch_loss, batches = 0.0, 0
        for start in range(0, len(images), params["batch_size"]):
            optimizer.zero_grad()
            output = net(images[start:start + params["batch_size"]])
            loss = criterion(output, labels[start:start + params["batch_size"]])
            loss.backward()
            optimizer.step()
            epoch_loss += loss.item()
            batches += 1
        print("Epoch", epoch, "train loss", round(epoch_loss / batches, 4))
    return net


net = train({"samples": 400, "learning_rate": 1e-2, "num_epochs": 10, "batch_size": 20})
net.eval()
images, labels = synthetic_scans(600)
with torch.no_grad():
    wrong = (net(images).argmax(1) != labels).float().mean().item()
print(f"final error: {wrong:.4f}")
