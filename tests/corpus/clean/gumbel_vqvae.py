"""A discrete autoencoder with Gumbel-softmax codes whose temperature is annealed per step, with the Kullback-Leibler term averaged over the batch as the reconstruction is."""
import math
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1); torch.manual_seed(14)
CODES, SLOTS = 8, 3

enc = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, CODES * SLOTS))
dec = nn.Sequential(nn.Linear(CODES * SLOTS, 64), nn.ReLU(), nn.Linear(64, 20))
params = list(enc.parameters()) + list(dec.parameters())
opt = torch.optim.Adam(params, lr=3e-3)

basis = torch.randn(SLOTS, 4, 20)
def batch(n=128):
    z = torch.randint(4, (n, SLOTS))
    return sum(basis[s, z[:, s]] for s in range(SLOTS)) + 0.05 * torch.randn(n, 20)

log = {"rec": 0., "kl": 0.}
for step in range(1, 601):
    tau = max(0.5, math.exp(-0.003 * step))
    x = batch()
    logits = enc(x).view(-1, SLOTS, CODES)
    code = F.gumbel_softmax(logits, tau=tau, hard=step > 300)
    rec = F.mse_loss(dec(code.flatten(1)), x, reduction="none").sum(1).mean()
    q = logits.log_softmax(-1)
    kl = (q.exp() * (q + math.log(CODES))).sum((1, 2)).mean()
    loss = rec + 0.1 * kl
    opt.zero_grad()
    loss.backward()
    opt.step()
    log["rec"] += rec.item() / 100; log["kl"] += kl.item() / 100
    if step % 100 == 0:
        print(step, f"tau={tau:.2f}", *(f"{k}={v:.3f}" for k, v in log.items()))
        log = dict.fromkeys(log, 0.)
