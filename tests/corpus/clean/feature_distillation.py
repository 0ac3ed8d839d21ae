"""A teacher is trained first, frozen in evaluation mode and read by forward hooks under no_grad, and the student learns from labels, soft targets and a projected feature whose projection is trained too."""
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
torch.manual_seed(60)
x = torch.randn(1400, 10)
y = (4 * torch.sigmoid(2 * x[:, 0] * x[:, 1] + x[:, 2])).long().clamp(max=3)
xt, yt, xv, yv = x[:1000], y[:1000], x[1000:], y[1000:]


def acc(net):
    net.eval()
    with torch.no_grad():
        return (net(xv).argmax(1) == yv).float().mean().item()


teacher = nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 4))
opt = torch.optim.Adam(teacher.parameters(), lr=3e-3, weight_decay=1e-4)
for epoch in range(15):
    for b in torch.randperm(1000).split(50):
        opt.zero_grad()
        loss = F.cross_entropy(teacher(xt[b]), yt[b])
        loss.backward()
        opt.step()
print(f"teacher: {acc(teacher):.3f}")
teacher.eval().requires_grad_(False)

tapped = {}
student = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
teacher[3].register_forward_hook(lambda m, i, o: tapped.__setitem__("teacher", o))
student[3].register_forward_hook(lambda m, i, o: tapped.__setitem__("student", o))
project = nn.Linear(16, 64)
opt = torch.optim.Adam([*student.parameters(), *project.parameters()], lr=4e-3)
T = 3.0
for epoch in range(15):
    student.train()
    parts = torch.zeros(3)
    for b in torch.randperm(1000).split(50):
        with torch.no_grad():
            soft = teacher(xt[b])
        logits = student(xt[b])
        hard = F.cross_entropy(logits, yt[b])
        kd = T * T * F.kl_div((logits / T).log_softmax(1), (soft / T).softmax(1), reduction="batchmean")
        feat = F.mse_loss(project(tapped["student"]), tapped["teacher"])
        loss = 0.3 * hard + 0.7 * kd + 0.1 * feat
        opt.zero_grad()
        loss.backward()
        opt.step()
        parts += torch.stack([hard, kd, feat]).detach() / 20
    if epoch % 3 == 2:
        print("epoch %d: hard %.3f kd %.3f feature %.3f | student acc %.3f" % (epoch + 1, *parts.tolist(), acc(student)))
