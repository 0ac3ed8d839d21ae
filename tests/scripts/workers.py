import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def main():
    X = torch.randn(40, 5)
    ds = torch.utils.data.TensorDataset(X, X.sum(1, keepdim=True))
    ld = torch.utils.data.DataLoader(ds, 8, num_workers=1)
    m = nn.Linear(5, 1)
    o = torch.optim.SGD(m.parameters(), 0.05)
    for ep in range(2):
        for x, y in ld:
            l = F.mse_loss(m(x), y)
            o.zero_grad()
            l.backward()
            o.step()
    print(l.item())


if __name__ == "__main__":
    main()
