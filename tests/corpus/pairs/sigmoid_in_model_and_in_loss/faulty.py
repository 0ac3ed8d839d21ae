import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class Block(nn.Sequential):
    def __init__(self, i, o):
        super().__init__(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())

class SmallUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = Block(1, 6), Block(6, 12)
        self.up = nn.Upsample(scale_factor=2)
        self.fuse = Block(18, 8)
        self.outconv = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        h1 = self.down1(x)
        h2 = self.down2(F.max_pool2d(h1, 2))
        d1 = self.outconv(self.fuse(torch.cat([h1, self.up(h2)], 1)))
        return torch.sigmoid(d1)

def blobs(n, s=12):
    yy, xx = torch.meshgrid(torch.arange(s), torch.arange(s), indexing="ij")
    c = torch.rand(n, 2, 1, 1) * s
    mask = ((yy - c[:, 0]) ** 2 + (xx - c[:, 1]) ** 2 < 9).float().unsqueeze(1)
    return mask * 1.5 + 0.5 * torch.randn(n, 1, s, s), mask

net = SmallUNet()
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.RMSprop(net.parameters(), lr=3e-3)
images, masks = blobs(160)
for epoch in range(6):
    net.train()
    epoch_loss = 0.0
    for i in range(0, 160, 16):
        pred = net(images[i:i + 16])
        loss = criterion(pred, masks[i:i + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item()
    print(f"Epoch finished ! Loss: {epoch_loss / 10:.4f}")

net.eval()
images, masks = blobs(100)
with torch.no_grad():
    print(f"final error: {criterion(net(images), masks).item():.4f}")
