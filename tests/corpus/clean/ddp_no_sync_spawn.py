"""Two gloo processes accumulate without synchronising on all micro-batches of a window but the last, the sampler is told the epoch, and the printed loss is reduced over the ranks."""
import os
import socket
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from contextlib import nullcontext
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

ACCUM = 2


def worker(rank, world, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(512, 10, generator=g)
    y = (x[:, 0] * x[:, 1] + x[:, 2]).unsqueeze(1)
    dataset = TensorDataset(x, y)
    sampler = DistributedSampler(dataset, num_replicas=world, rank=rank, shuffle=True)
    loader = DataLoader(dataset, batch_size=32, sampler=sampler)

    torch.manual_seed(100)
    model = DDP(nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(8):
        sampler.set_epoch(epoch)
        total = torch.zeros(1)
        for i, (bx, by) in enumerate(loader):
            boundary = (i + 1) % ACCUM == 0
            with nullcontext() if boundary else model.no_sync():
                loss = nn.functional.mse_loss(model(bx), by)
                (loss / ACCUM).backward()
            total += loss.detach()
            if boundary:
                optimizer.step()
                optimizer.zero_grad()
        dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch}: loss {total.item() / (world * len(loader)):.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        free_port = s.getsockname()[1]
    mp.spawn(worker, args=(2, free_port), nprocs=2)
