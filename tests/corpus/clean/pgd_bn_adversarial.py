"""The attack runs in evaluation mode and takes gradients of the input alone by autograd.grad, so the weights' gradients come only from the training pass on the perturbed batch."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(99)
torch.set_num_threads(1)
EPS, ALPHA, ITERS = 0.1, 0.03, 5


def pgd(model, x, y):
    was_training = model.training
    model.eval()
    delta = torch.empty_like(x).uniform_(-EPS, EPS)
    for _ in range(ITERS):
        delta.requires_grad_(True)
        loss = F.cross_entropy(model(x + delta), y)
        (grad,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() + ALPHA * grad.sign()).clamp(-EPS, EPS)
    model.train(was_training)
    return (x + delta).detach()


x = torch.randn(1280, 16)
y = (x[:, :8].sum(1) + 0.5 * x[:, 8] * x[:, 9] > 0).long()
train_dl = DataLoader(TensorDataset(x[:1024], y[:1024]), batch_size=64, shuffle=True)
test_x, test_y = x[1024:], y[1024:]

net = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[6, 8], gamma=0.2)
for epoch in range(10):
    net.train()
    robust_loss = 0.0
    for xb, yb in train_dl:
        x_adv = pgd(net, xb, yb)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x_adv), yb)
        loss.backward()
        optimizer.step()
        robust_loss += loss.item()
    scheduler.step()
    net.eval()
    adv = pgd(net, test_x, test_y)
    with torch.no_grad():
        clean_acc = (net(test_x).argmax(1) == test_y).float().mean().item()
        adv_acc = (net(adv).argmax(1) == test_y).float().mean().item()
    print(f"epoch {epoch + 1:2d}  adv loss {robust_loss / len(train_dl):.3f}  clean {clean_acc:.3f}  pgd {adv_acc:.3f}")
