import torch
from torch import nn

torch.manual_seed(0)


class Trainer:
    def __init__(s):
        s.m = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        s.o = torch.optim.SGD(s.m.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
        s.ema = torch.optim.swa_utils.AveragedModel(s.m, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
        s.pl = torch.optim.lr_scheduler.ReduceLROnPlateau(s.o, patience=0)

    def step(s, x, y):
        s.o.zero_grad()
        l = s.crit(s.m(x), y)
        l.backward()
        s.o.step()
        s.ema.update_parameters(s.m)
        return l.item()

    def crit(s, p, y):
        return (p - y).pow(2).mean()

    def fit(s):
        X = torch.randn(30, 5)
        Y = X.sum(1, keepdim=True)
        for ep in range(3):
            s.m.train()
            tot = sum(s.step(x, y) * len(x) for x, y in zip(X.split(8), Y.split(8))) / 30
            s.m.eval()
            with torch.no_grad():
                v = s.crit(s.ema(X), Y).item()
            s.pl.step(v)
            print(tot, v)


Trainer().fit()
