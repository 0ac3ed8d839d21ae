"""Forward, loss and backward are compiled as one function with the eager backend, and the forward alone with aot_eager, while zeroing and stepping stay outside."""
import sys
import torch
from torch import nn

torch.set_num_threads(1)


def train(backend, whole_step):
    torch.manual_seed(19)
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    criterion = nn.CrossEntropyLoss()

    def forward_loss(x, y):
        return criterion(model(x), y)

    def full(x, y):
        loss = forward_loss(x, y)
        loss.backward()
        return loss.detach()

    fn = torch.compile(full if whole_step else forward_loss, backend=backend)
    X = torch.randn(640, 8)
    Y = X[:, :4].argmax(1)
    for epoch in range(6):
        running = 0.0
        for i in range(0, 640, 32):
            optimizer.zero_grad(set_to_none=True)
            loss = fn(X[i:i + 32], Y[i:i + 32])
            if not whole_step:
                loss.backward()
            optimizer.step()
            running += loss.item()
        print(f"{backend:9s} epoch {epoch} loss {running / 20:.4f}")


for backend, whole in (("eager", True), ("aot_eager", False)):
    train(backend, whole)
sys.stdout.flush()
