"""Weights and activations are rounded in the forward with a straight-through estimator while the optimiser keeps the float weights, and observers are frozen in evaluation."""
import torch
from torch import nn
from torch.nn import functional as F
torch.set_num_threads(1); torch.manual_seed(9)

def fake_quant(x, scale, lo, hi):
    q = torch.clamp(torch.round(x / scale), lo, hi) * scale
    return x + (q - x).detach()

class QLinear(nn.Linear):
    def __init__(self, i, o, bits=8):
        super().__init__(i, o)
        self.lim = 2 ** (bits - 1) - 1
        self.register_buffer('act_max', torch.zeros(()))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                m = x.abs().max()
                self.act_max.copy_(torch.where(self.act_max == 0, m, 0.95 * self.act_max + 0.05 * m))
        x = fake_quant(x, self.act_max / self.lim + 1e-12, -self.lim, self.lim)
        w_scale = self.weight.detach().abs().amax(1, keepdim=True) / self.lim
        return F.linear(x, fake_quant(self.weight, w_scale, -self.lim, self.lim), self.bias)

net = nn.Sequential(QLinear(2, 48), nn.ReLU(), QLinear(48, 48, bits=4), nn.ReLU(), QLinear(48, 2))
x = torch.randn(1500, 2)
y = (x[:, 0] * x[:, 1] > 0).long()
xt, yt, xv, yv = x[:1200], y[:1200], x[1200:], y[1200:]

opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(15):
    net.train()
    loss_sum = 0
    for b in torch.randperm(1200).view(-1, 60):
        loss = F.cross_entropy(net(xt[b]), yt[b])
        opt.zero_grad(); loss.backward(); opt.step()
        loss_sum += loss.item()
    net.eval()
    with torch.no_grad():
        acc = (net(xv).argmax(1) == yv).float().mean()
    if epoch % 3 == 2: print('epoch %2d  train loss %.4f  val acc %.3f (4/8 bit)' % (epoch + 1, loss_sum / 20, acc))
