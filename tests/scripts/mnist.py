import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.c = nn.Conv2d(1, 4, 3)
        s.d = nn.Dropout(0.25)
        s.f = nn.Linear(4 * 36, 10)

    def forward(s, x):
        return F.log_softmax(s.f(s.d(F.relu(s.c(x))).flatten(1)), 1)


def train(m, ld, o, ep):
    m.train()
    for i, (x, y) in enumerate(ld):
        o.zero_grad()
        l = F.nll_loss(m(x), y)
        l.backward()
        o.step()
        if i % 3 == 0:
            print(ep, l.item())


def test(m, ld):
    m.eval()
    t = 0
    with torch.no_grad():
        for x, y in ld:
            t += F.nll_loss(m(x), y, reduction="sum").item()
    print(t)


def main():
    ds = torch.utils.data.TensorDataset(torch.randn(60, 1, 8, 8), torch.randint(0, 10, (60,)))
    ld = torch.utils.data.DataLoader(ds, 16, shuffle=True)
    te = torch.utils.data.DataLoader(ds, 32)
    m = Net()
    o = torch.optim.Adadelta(m.parameters(), lr=1.0)
    s = torch.optim.lr_scheduler.StepLR(o, 1, 0.7)
    for ep in range(3):
        train(m, ld, o, ep)
        test(m, te)
        s.step()


if __name__ == "__main__":
    main()
