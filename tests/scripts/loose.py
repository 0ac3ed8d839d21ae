import torch

torch.manual_seed(0)

w = torch.zeros(5, 1, requires_grad=True)
b = torch.zeros(1, requires_grad=True)
o = torch.optim.SGD([w, b], 0.1)
for i in range(20):
    x = torch.randn(8, 5)
    l = ((x @ w + b - x.sum(1, keepdim=True)) ** 2).mean()
    o.zero_grad()
    l.backward()
    o.step()
print(l.item())
