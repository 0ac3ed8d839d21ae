"""Fabric wraps model and optimiser in bf16-mixed, each window of four equal micro-batches divides its losses by four, and the warm-up schedule ticks once per optimiser step."""
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)


def build():
    return torch.nn.Sequential(torch.nn.Linear(24, 64), torch.nn.GELU(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 1))


def main():
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    fabric.launch()
    fabric.seed_everything(4)
    x = torch.randn(512, 24)
    y = torch.sin(x[:, :4].sum(1, keepdim=True)) + 0.1 * x[:, 5:6]

    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    model, optimizer = fabric.setup(model, optimizer)
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 10))

    accumulate = 4
    for epoch in range(12):
        model.train()
        epoch_loss = torch.zeros(())
        for i, (bx, by) in enumerate(loader):
            last = (i + 1) % accumulate == 0
            with fabric.no_backward_sync(model, enabled=not last):
                loss = F.mse_loss(model(bx), by)
                fabric.backward(loss / accumulate)
            epoch_loss += loss.detach()
            if last:
                fabric.clip_gradients(model, optimizer, max_norm=1.0)
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
        fabric.print(f"epoch {epoch:2d} | loss {epoch_loss.item() / len(loader):.4f} | lr {optimizer.param_groups[0]['lr']:.1e}")


main()
