import torch

x = torch.linspace(-3, 3, 200)
y = torch.sin(x)
a, b = (torch.randn((), requires_grad=True) for _ in range(2))
for t in range(50):
    loss = ((a + b * x - y) ** 2).sum()
    loss.backward()
    with torch.no_grad():
        a -= 1e-4 * a.grad
        b -= 1e-4 * b.grad
        a.grad = None
        b.grad = None
print(loss.item())
