"""Poisson-sampled logical batches are cut into physical ones by Opacus's memory manager, which skips the optimiser until the logical batch is complete."""
import logging
import warnings
import torch
from opacus import PrivacyEngine
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
torch.set_num_threads(1)
torch.manual_seed(0)

x = torch.randn(2000, 20)
y = (x[:, :10].sum(1) > x[:, 10:].sum(1)).long()
test_x = torch.randn(500, 20)
test_y = (test_x[:, :10].sum(1) > test_x[:, 10:].sum(1)).long()

model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.GroupNorm(4, 32), nn.Linear(32, 2))
optimizer = optim.SGD(model.parameters(), lr=0.4)
loader = DataLoader(TensorDataset(x, y), batch_size=200)
engine = PrivacyEngine(accountant="rdp")
model, optimizer, loader = engine.make_private(module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.1, max_grad_norm=1.0)
criterion = nn.CrossEntropyLoss()

for epoch in range(1, 6):
    model.train()
    loss_sum, count = 0.0, 0
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=64, optimizer=optimizer) as physical:
        for bx, by in physical:
            optimizer.zero_grad()
            loss = criterion(model(bx), by)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(bx)
            count += len(bx)
    model.eval()
    with torch.no_grad():
        acc = (model(test_x).argmax(1) == test_y).float().mean().item()
    print(f"epoch {epoch}: loss {loss_sum / count:.4f}  test acc {acc:.3f}  eps {engine.get_epsilon(1e-5):.2f}")
