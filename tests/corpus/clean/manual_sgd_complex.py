"""A complex-valued filter is fitted in complex128 by gradient descent without an optimiser: the update is made under no_grad and the gradients are cleared after it."""
import torch

torch.set_num_threads(1)
torch.manual_seed(64)
taps, n = 9, 2048
truth = torch.randn(taps, dtype=torch.cdouble) * torch.hann_window(taps, periodic=False, dtype=torch.double)
signal = torch.randn(n, dtype=torch.cdouble)
frames = signal.unfold(0, taps, 1)
clean = frames @ truth
received = clean * torch.exp(1j * torch.tensor(0.4)) + 0.05 * torch.randn_like(clean)

w = torch.zeros(taps, dtype=torch.cdouble, requires_grad=True)
phase = torch.zeros((), dtype=torch.double, requires_grad=True)
lr = 0.05
for epoch in range(6):
    order = torch.randperm(len(frames))
    acc = 0.0
    for rows in order.split(170):
        out = (frames[rows] @ w) * torch.exp(1j * phase)
        loss = (out - received[rows]).abs().pow(2).mean()
        loss.backward()
        with torch.no_grad():
            for p in (w, phase):
                p -= lr * p.grad
                p.grad = None
        acc += loss.item() * len(rows)
    print(f"epoch {epoch}: mse {acc / len(frames):.5f}")
