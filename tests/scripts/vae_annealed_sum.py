import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(54)
torch.set_num_threads(1)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc21, self.fc22, self.fc3, self.fc4 = (
            nn.Linear(25, 32),
            nn.Linear(32, 4),
            nn.Linear(32, 4),
            nn.Linear(4, 32),
            nn.Linear(32, 25),
        )

    def forward(self, x):
        h = F.relu(self.fc1(x))
        mu, lv = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * lv)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, lv


def loss_function(rx, x, mu, lv, beta):
    BCE = F.binary_cross_entropy(rx, x, reduction="sum")
    kl = -0.5 * (1 + lv - mu.pow(2) - lv.exp())
    KLD = kl.mean(0).clamp(min=0.05).sum() * len(x)
    return BCE + beta * KLD


base = (torch.rand(6, 25) > 0.5).float()
x = torch.where(torch.rand(300, 25) < 0.05, 1 - base[torch.randint(0, 6, (300,))], base[torch.randint(0, 6, (300,))])
vae = VAE()
opt = torch.optim.Adam(vae.parameters(), lr=3e-3)
it, log = 0, []
for epoch in range(6):
    vae.train()
    train_loss = 0
    for i in torch.randperm(300).split(32):
        beta = min(1.0, (it % 20) / 10)
        it += 1
        data = x[i]
        opt.zero_grad()
        rx, mu, lv = vae(data)
        loss = loss_function(rx, data, mu, lv, beta)
        loss.backward()
        train_loss += loss.item()
        opt.step()
    log.append(train_loss / 300)
    print(f"====> Epoch: {epoch} Average loss: {train_loss / 300:.4f}")
