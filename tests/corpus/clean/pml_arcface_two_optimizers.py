"""The class centres of ArcFace are parameters of the loss and have an optimiser of their own, which is zeroed and stepped together with that of the trunk."""
import torch
from pytorch_metric_learning import losses, samplers
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(13)

n_classes = 12
centres = torch.randn(n_classes, 24)
labels = torch.arange(n_classes).repeat_interleave(50)
inputs = centres[labels] + 1.2 * torch.randn(len(labels), 24)
trunk = nn.Sequential(nn.Linear(24, 64), nn.PReLU(), nn.Linear(64, 16))
loss_func = losses.ArcFaceLoss(num_classes=n_classes, embedding_size=16, margin=20, scale=16)
trunk_opt = torch.optim.Adam(trunk.parameters(), lr=2e-3)
loss_opt = torch.optim.SGD(loss_func.parameters(), lr=0.05)

sampler = samplers.MPerClassSampler(labels, m=5, batch_size=60, length_before_new_iter=600)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=60, sampler=sampler)


def precision_at_1():
    trunk.eval()
    with torch.no_grad():
        e = nn.functional.normalize(trunk(inputs), dim=1)
    trunk.train()
    return (labels[(e @ e.T).fill_diagonal_(-2).argmax(1)] == labels).float().mean().item()


for epoch in range(10):
    running = []
    for x, t in loader:
        trunk_opt.zero_grad()
        loss_opt.zero_grad()
        loss = loss_func(trunk(x), t)
        loss.backward()
        trunk_opt.step()
        loss_opt.step()
        running.append(loss.item())
    print(f"Epoch {epoch}, Loss = {sum(running) / len(running):.3f}, P@1 = {precision_at_1():.3f}")
