"""Noise is predicted at a random step of every sample, the schedule and the EMA both advance right after the optimiser, and sampling uses the averaged copy under no_grad."""
import argparse
import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Denoiser(nn.Module):
    def __init__(self, width=96, freqs=4):
        super().__init__()
        self.register_buffer("freqs", 2.0 ** torch.arange(freqs) * math.pi)
        self.net = nn.Sequential(nn.Linear(2 + 2 * freqs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, t):
        e = t[:, None] * self.freqs
        return self.net(torch.cat([x, e.sin(), e.cos()], dim=1))


def moons(n, gen):
    th = torch.rand(n, generator=gen) * math.pi
    up = (torch.rand(n, generator=gen) < 0.5).float()
    x = torch.stack([th.cos() + (1 - up), (2 * up - 1) * th.sin() + 0.5 * (1 - up)], dim=1)
    return (x - torch.tensor([0.5, 0.25])) / 0.7 + 0.03 * torch.randn(n, 2, generator=gen)


def main(args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    beta = torch.linspace(1e-4, 0.2, args.T)
    abar = torch.cumprod(1 - beta, 0)
    model = Denoiser()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    opt = torch.optim.AdamW(model.parameters(), lr=args.lr)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=args.steps, eta_min=1e-5)
    running = 0.0
    for step in range(1, args.steps + 1):
        x0 = moons(args.batch, gen)
        t = torch.randint(args.T, (args.batch,))
        noise = torch.randn_like(x0)
        a = abar[t][:, None]
        loss = (model(a.sqrt() * x0 + (1 - a).sqrt() * noise, t / args.T) - noise).pow(2).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        sched.step()
        ema.update_parameters(model)
        running += loss.item()
        if step % args.log == 0:
            print(f"step {step}: loss {running / args.log:.4f}, lr {sched.get_last_lr()[0]:.2e}")
            running = 0.0
    ema.eval()
    with torch.no_grad():
        x = torch.randn(500, 2)
        for i in reversed(range(args.T)):
            eps = ema(x, torch.full((500,), i / args.T))
            x = (x - beta[i] / (1 - abar[i]).sqrt() * eps) / (1 - beta[i]).sqrt()
            if i:
                x = x + beta[i].sqrt() * torch.randn_like(x)
    d = torch.cdist(x, moons(2000, gen)).min(dim=1).values
    print(f"samples: mean distance to the data {d.mean():.3f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=900)
    p.add_argument("--batch", type=int, default=384)
    p.add_argument("--T", type=int, default=50)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--log", type=int, default=150)
    p.add_argument("--seed", type=int, default=0)
    main(p.parse_args())
