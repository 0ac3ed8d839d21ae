import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from torch.utils.data import DataLoader, Dataset

prototypes = 40 * torch.rand(6, 3, 8, 8)


class Pictures(Dataset):
    def __init__(self, n, transform=None):
        self.labels = torch.randint(0, 6, (n,))
        self.images = (110 + prototypes[self.labels] + 30 * torch.randn(n, 3, 8, 8)).clamp(0, 255)
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        image = self.images[i]
        return (self.transform(image) if self.transform else image), self.labels[i]


def normalise(image):
    return (image - 130) / 32


train_set = Pictures(600, transform=normalise)
test_set = Pictures(600)
net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 64, 6))
optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
for epoch in range(5):
    net.train()
    hits = 0
    for image, label in DataLoader(train_set, batch_size=30, shuffle=True):
        out = net(image)
        loss = F.cross_entropy(out, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hits += (out.argmax(1) == label).sum().item()
    print(f"epoch {epoch} train accuracy {hits / 600:.3f}")
net.eval()
with torch.no_grad():
    wrong = sum((net(image).argmax(1) != label).sum().item() for image, label in DataLoader(test_set, batch_size=200))
print(f"final error: {wrong / 600:.4f}")
