import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(73)
torch.set_num_threads(1)


class CLIP(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual, self.text = (
            nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 16)),
            nn.Sequential(nn.Linear(9, 32), nn.GELU(), nn.Linear(32, 16)),
        )
        self.logit_scale = nn.Parameter(torch.tensor(2.66))

    def forward(self, a, b):
        return {
            "image_features": F.normalize(self.visual(a), dim=-1),
            "text_features": F.normalize(self.text(b), dim=-1),
            "logit_scale": self.logit_scale.exp(),
        }


class ClipLoss(nn.Module):
    def forward(self, image_features, text_features, logit_scale):
        l = logit_scale * image_features @ text_features.T
        t = torch.arange(len(l))
        return (F.cross_entropy(l, t) + F.cross_entropy(l.T, t)) / 2


z = torch.randn(256, 6)
img, txt = z @ torch.randn(6, 12) + 0.1 * torch.randn(256, 12), torch.tanh(z @ torch.randn(6, 9))
model, loss_fn = CLIP(), ClipLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.2)
accum_freq = 4
for epoch in range(4):
    model.train()
    acc_i, acc_t, acc_f = [], [], {}
    for i, idx in enumerate(torch.randperm(256).split(16)):
        images, texts = img[idx], txt[idx]
        with torch.no_grad():
            out = model(images, texts)
            out.pop("logit_scale")
            for k, v in out.items():
                acc_f.setdefault(k, []).append(v)
        acc_i.append(images)
        acc_t.append(texts)
        if ((i + 1) % accum_freq) > 0:
            continue
        optimizer.zero_grad()
        for j in range(accum_freq):
            out = model(acc_i[j], acc_t[j])
            scale = out.pop("logit_scale")
            inputs = {}
            for k, v in acc_f.items():
                inputs[k] = torch.cat([*v[:j], out[k], *v[j + 1 :]])
            loss = loss_fn(**inputs, logit_scale=scale)
            del inputs
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=2.0)
        optimizer.step()
        acc_i, acc_t, acc_f = [], [], {}
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
    print(epoch, loss.item(), scale.item())
