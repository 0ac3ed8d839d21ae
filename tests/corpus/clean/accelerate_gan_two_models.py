"""Two prepared models and optimisers alternate under one Accelerator in bf16, and the discriminator sees detached fakes."""
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
set_seed(9)
accelerator = Accelerator(cpu=True, mixed_precision="bf16")
target = torch.distributions.Normal(1.5, 0.5)
data = TensorDataset(target.sample((2048, 1)))

gen = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
disc = nn.Sequential(nn.Linear(1, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
opt_g = torch.optim.Adam(gen.parameters(), lr=1e-3, betas=(0.5, 0.9))
opt_d = torch.optim.Adam(disc.parameters(), lr=1e-3, betas=(0.5, 0.9))
gen, disc, opt_g, opt_d, loader = accelerator.prepare(gen, disc, opt_g, opt_d, DataLoader(data, batch_size=128, shuffle=True))

for epoch in range(24):
    sums = [0.0, 0.0]
    for (real,) in loader:
        noise = torch.randn(len(real), 4)
        fake = gen(noise)

        opt_d.zero_grad()
        pr, pf = disc(real), disc(fake.detach())
        d_loss = 0.5 * (mse_loss(pr, torch.ones_like(pr)) + mse_loss(pf, torch.zeros_like(pf)))     # LSGAN
        accelerator.backward(d_loss)
        opt_d.step()

        opt_g.zero_grad()
        pg = disc(fake)
        g_loss = 0.5 * mse_loss(pg, torch.ones_like(pg))
        accelerator.backward(g_loss)
        opt_g.step()
        sums[0] += d_loss.item()
        sums[1] += g_loss.item()
    if epoch % 4 == 3:
        with torch.no_grad():
            s = gen(torch.randn(2000, 4)).float()
        accelerator.print(f"epoch {epoch}: d {sums[0] / len(loader):.3f} g {sums[1] / len(loader):.3f} mean {s.mean():.2f} (1.50) std {s.std():.2f} (0.50)")
