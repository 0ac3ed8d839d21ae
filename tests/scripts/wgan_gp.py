import torch
from torch import nn

torch.manual_seed(0)

G = nn.Linear(3, 2)
D = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
og = torch.optim.Adam(G.parameters(), 1e-3)
od = torch.optim.Adam(D.parameters(), 1e-3)
for i in range(8):
    for _ in range(3):
        r = torch.randn(8, 2)
        f = G(torch.randn(8, 3)).detach()
        e = torch.rand(8, 1)
        z = (e * r + (1 - e) * f).requires_grad_()
        g = torch.autograd.grad(D(z).sum(), z, create_graph=True)[0]
        l = D(f).mean() - D(r).mean() + 10 * ((g.norm(dim=1) - 1) ** 2).mean()
        od.zero_grad()
        l.backward()
        od.step()
    lg = -D(G(torch.randn(8, 3))).mean()
    og.zero_grad()
    lg.backward()
    og.step()
print(l.item(), lg.item())
