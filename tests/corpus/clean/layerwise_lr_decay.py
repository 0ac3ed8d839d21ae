"""Parameter groups cover every parameter once, with rates that decay with depth and no weight decay on biases and norms, under a warm-up followed by a cosine that all groups share."""
import torch
import torch.nn as nn
torch.set_num_threads(1)
torch.manual_seed(3407)

class Encoder(nn.Module):
    def __init__(self, d=32, depth=3, n_tok=20, n_cls=4):
        super().__init__()
        self.embed = nn.Embedding(n_tok, d)
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(d, 2, 64, dropout=0.1, batch_first=True, norm_first=True) for _ in range(depth)])
        self.head = nn.Linear(d, n_cls)
    def forward(self, t):
        h = self.embed(t)
        for l in self.layers:
            h = l(h)
        return self.head(h.mean(1))

def param_groups(model, lr=4e-3, decay=0.7, wd=0.05):
    depth = len(model.layers)
    level = lambda n: 0 if n.startswith('embed') else depth + 1 if n.startswith('head') else int(n.split('.')[1]) + 1
    groups = {}
    for n, p in model.named_parameters():
        w = 0.0 if p.ndim == 1 else wd
        g = groups.setdefault((level(n), w), dict(params=[], lr=lr * decay ** (depth + 1 - level(n)), weight_decay=w))
        g['params'].append(p)
    assert sum(len(g['params']) for g in groups.values()) == len(list(model.parameters()))
    return list(groups.values())

tok = torch.randint(20, (640, 8))
lab = (tok < 5).sum(1).clamp(max=3)
model = Encoder()
opt = torch.optim.AdamW(param_groups(model))
EPOCHS, STEPS = 8, 20
warm = torch.optim.lr_scheduler.LinearLR(opt, 0.05, 1.0, total_iters=15)
cos = torch.optim.lr_scheduler.CosineAnnealingLR(opt, EPOCHS * STEPS - 15, eta_min=1e-6)
sch = torch.optim.lr_scheduler.SequentialLR(opt, [warm, cos], milestones=[15])
for ep in range(EPOCHS):
    model.train(); acc_loss = 0
    for idx in torch.randperm(640).view(STEPS, 32):
        loss = nn.functional.cross_entropy(model(tok[idx]), lab[idx], label_smoothing=0.05)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        opt.step(); sch.step()
        acc_loss += loss.item()
    print('ep', ep, 'loss', round(acc_loss / STEPS, 4), 'lr', ['%.1e' % g['lr'] for g in opt.param_groups][::2])
