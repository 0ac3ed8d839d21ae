import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(46)
torch.set_num_threads(1)
N, C = 120, 3
lab = torch.arange(N) % C
src = torch.randint(0, N, (900,))
dst = torch.randint(0, N, (900,))
keep = (lab[src] == lab[dst]) | (torch.rand(900) < 0.1)
src, dst = torch.cat([src[keep], dst[keep], torch.arange(N)]), torch.cat([dst[keep], src[keep], torch.arange(N)])
deg = torch.zeros(N).index_add_(0, dst, torch.ones(len(dst)))
val = deg[src].pow(-0.5) * deg[dst].pow(-0.5)
adj = torch.sparse_coo_tensor(torch.stack([dst, src]), val, (N, N)).coalesce()
feat = torch.randn(N, 10) * 0.5
feat[torch.arange(N), lab] += 1


class GCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2 = nn.Linear(10, 16, bias=False), nn.Linear(16, C, bias=False)
        self.b1, self.b2 = nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(C))

    def forward(self, x, a):
        x = F.relu(torch.spmm(a, self.w1(x)) + self.b1)
        x = F.dropout(x, 0.5, training=self.training)
        return F.log_softmax(torch.spmm(a, self.w2(x)) + self.b2, dim=1)


perm = torch.randperm(N)
tr, va, te = perm[:18], perm[18:60], perm[60:]
model = GCN()
optimizer = torch.optim.Adam(
    [
        {"params": [model.w1.weight, model.b1], "weight_decay": 5e-4},
        {"params": [model.w2.weight, model.b2], "weight_decay": 0},
    ],
    lr=0.02,
)
best = 0
for epoch in range(60):
    model.train()
    optimizer.zero_grad()
    output = model(feat, adj)
    loss_train = F.nll_loss(output[tr], lab[tr])
    loss_train.backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        output = model(feat, adj)
        loss_val = F.nll_loss(output[va], lab[va])
        acc = (output[va].argmax(1) == lab[va]).float().mean().item()
    best = max(best, acc)
    if epoch % 15 == 14:
        print(f"{epoch + 1:04d} train {loss_train.item():.4f} val {loss_val.item():.4f} acc {acc:.4f}")
model.eval()
print("test", (model(feat, adj)[te].argmax(1) == lab[te]).float().mean().item())
