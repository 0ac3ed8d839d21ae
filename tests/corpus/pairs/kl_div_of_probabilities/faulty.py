import os
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

class SegHead(nn.Module):
    """tiny fully convolutional segmenter"""
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 5, 1))

    def forward(self, image):
        return {"out": self.body(image)}

class Adaptation:
    def __init__(self, distillation=1.0):
        self.teacher = SegHead(24)
        for p in self.teacher.parameters():
            p.data.mul_(2.0)
            p.requires_grad_(False)
        self.base = SegHead(16)
        self.distillation = distillation
        self.optim = torch.optim.Adam(self.base.parameters(), lr=1e-2)

    def step(self, images):
        target_out = self.base(images)
        with torch.no_grad():
            teacher_out = self.teacher(images)
            teacher = F.softmax(teacher_out["out"], dim=1)
        student = F.softmax(target_out["out"], dim=1)
        loss_kd = F.kl_div(student, teacher, reduction="none")
        mask = (teacher != 250).float()
        loss_kd = (loss_kd * mask).sum() / mask.sum()
        loss = self.distillation * loss_kd
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        return loss.item()

if __name__ == "__main__":
    model = Adaptation()
    for it in range(200):
        loss = model.step(torch.randn(8, 3, 12, 12))
        if (it + 1) % 50 == 0:
            print(f"iter {it + 1}: loss_kd {loss:.4f}")
    images = torch.randn(64, 3, 12, 12)
    with torch.no_grad():
        p = F.softmax(model.teacher(images)["out"], 1)
        lq = F.log_softmax(model.base(images)["out"], 1)
        gap = (p * (p.clamp_min(1e-9).log() - lq)).sum(1).mean().item()
    print(f"final error: {gap:.4f}")
