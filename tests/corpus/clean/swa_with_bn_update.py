"""Weights are averaged at the end of each epoch after the start of SWA under a constant SWA rate, and the BatchNorm statistics of the average are recomputed on the training data before it is tested."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(0)

imgs = torch.randn(1000, 1, 8, 8) * 0.7
labels = torch.randint(0, 4, (1000,))
for c, (r, s) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
    imgs[labels == c, :, r:r + 4, s:s + 4] += 0.6
train_loader = DataLoader(TensorDataset(imgs[:800], labels[:800]), batch_size=50, shuffle=True)
test = imgs[800:], labels[800:]

model = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
swa_model = AveragedModel(model)
EPOCHS, SWA_START = 10, 6
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
swa_scheduler = SWALR(optimizer, swa_lr=0.02, anneal_epochs=2)


def accuracy(net):
    net.eval()
    with torch.no_grad():
        return (net(test[0]).argmax(1) == test[1]).float().mean().item()


for epoch in range(EPOCHS):
    model.train()
    epoch_loss = 0.0
    for images, target in train_loader:
        loss = F.cross_entropy(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item()
    if epoch >= SWA_START:
        swa_model.update_parameters(model)
        swa_scheduler.step()
    else:
        scheduler.step()
    print(f"epoch {epoch:2d} loss {epoch_loss / len(train_loader):.4f} acc {accuracy(model):.3f} lr {optimizer.param_groups[0]['lr']:.4f}")
update_bn(train_loader, swa_model)
print(f"swa acc {accuracy(swa_model):.3f}")
