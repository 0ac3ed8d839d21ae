"""An endless IterableDataset shares its stream among two workers, and the loop breaks after max_steps with every forward stepped on."""
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

MAX_STEPS, LOG_EVERY = 300, 50


class Stream(IterableDataset):
    def __init__(self, seed):
        self.seed = seed

    def __iter__(self):
        info = get_worker_info()
        g = torch.Generator().manual_seed(self.seed + (info.id if info else 0))
        while True:
            x = torch.randn(5, generator=g)
            yield x, torch.stack([x.max(), x.min()])


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    loader = DataLoader(Stream(1000), batch_size=64, num_workers=2)
    model = nn.Sequential(nn.Linear(5, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))
    optimizer = torch.optim.NAdam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, base_lr=5e-4, max_lr=5e-3, step_size_up=50, cycle_momentum=False)
    window = []
    for step, (x, y) in enumerate(loader, 1):
        loss = (model(x) - y).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        window.append(loss.item())
        if step % LOG_EVERY == 0:
            print(f"[{step}/{MAX_STEPS}] l1 {sum(window) / len(window):.4f} lr {scheduler.get_last_lr()[0]:.2e}")
            window.clear()
        if step >= MAX_STEPS:
            break


if __name__ == "__main__":
    main()
