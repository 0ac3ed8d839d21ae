"""A convolutional VAE sums reconstruction and KL per image and averages both over the batch, with a KL weight that rises over the first epochs and printed terms without that weight."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader


class ConvVAE(nn.Module):
    def __init__(self, latent=4):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten())
        self.mu, self.logvar = nn.Linear(16 * 9, latent), nn.Linear(16 * 9, latent)
        self.dec = nn.Sequential(nn.Linear(latent, 16 * 9), nn.ReLU(), nn.Unflatten(1, (16, 3, 3)), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1))

    def forward(self, x):
        h = self.enc(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp() if self.training else mu
        return self.dec(z), mu, logvar


def blobs(n):
    c = torch.rand(n, 2, 1, 1) * 8 + 2
    grid = torch.arange(12.0)
    return torch.exp(-((grid[None, :, None] - c[:, 0]) ** 2 + (grid[None, None, :] - c[:, 1]) ** 2) / 4).unsqueeze(1)


def terms(model, x):
    logits, mu, logvar = model(x)
    rec = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    kl = -0.5 * (1 + logvar - mu ** 2 - logvar.exp()).sum(1).mean()
    return rec, kl


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(1)
    train, test = DataLoader(blobs(640), batch_size=64, shuffle=True), blobs(128)
    model = ConvVAE()
    optimizer = torch.optim.Adamax(model.parameters(), lr=8e-3)
    for epoch in range(1, 13):
        model.train()
        beta = min(1.0, epoch / 6)
        rec_sum = kl_sum = 0.0
        for x in train:
            optimizer.zero_grad()
            rec, kl = terms(model, x)
            (rec + beta * kl).backward()
            optimizer.step()
            rec_sum, kl_sum = rec_sum + rec.item(), kl_sum + kl.item()
        model.eval()
        with torch.no_grad():
            r, k = terms(model, test)
        if epoch % 2 == 0:
            print(f"====> Epoch {epoch}: beta {beta:.2f} rec {rec_sum / len(train):.2f} kl {kl_sum / len(train):.2f} | test {r + k:.2f}")
