import torch
from torch import nn

torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 2))
D = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
oG = torch.optim.Adam(G.parameters(), 2e-4)
oD = torch.optim.Adam(D.parameters(), 2e-4)
crit = nn.BCEWithLogitsLoss()
for ep in range(2):
    for i in range(8):
        real = torch.randn(8, 2)
        D.zero_grad()
        out = D(real).view(-1)
        errR = crit(out, torch.ones(8))
        errR.backward()
        fake = G(torch.randn(8, 4))
        out = D(fake.detach()).view(-1)
        errF = crit(out, torch.zeros(8))
        errF.backward()
        oD.step()
        G.zero_grad()
        out = D(fake).view(-1)
        errG = crit(out, torch.ones(8))
        errG.backward()
        oG.step()
    print(ep, errR.item() + errF.item(), errG.item())
