import os
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))


class FitnessModel:
    def __init__(self, n_letters, length, hidden=32, lr=0.02):
        self.n_letters = n_letters
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(n_letters * length, hidden),
            nn.ELU(),
            nn.Linear(hidden, 1),
        )
        self.loss = nn.MSELoss()
        self.optimizer = torch.optim.Adam(self.net.parameters(), weight_decay=lr)

    def encode(self, seqs):
        return nn.functional.one_hot(seqs, self.n_letters).float()

    def fit(self, seqs, fitness, epochs=30, batch_size=32):
        for epoch in range(epochs):
            total = 0.0
            for idx in torch.randperm(len(seqs)).split(batch_size):
                pred = self.net(self.encode(seqs[idx])).squeeze(-1)
                loss = self.loss(pred, fitness[idx])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += loss.item() * len(idx)
            if epoch % 10 == 9:
                print(f"epoch {epoch + 1} mse {total / len(seqs):.4f}")

    def predict(self, seqs):
        with torch.no_grad():
            return self.net(self.encode(seqs)).squeeze(-1)


length, letters = 8, 4
site = torch.randn(length, letters)

def measure(seqs):
    return site[torch.arange(length), seqs].sum(1)

train = torch.randint(0, letters, (400, length))
test = torch.randint(0, letters, (400, length))
model = FitnessModel(letters, length)
model.fit(train, measure(train))
error = (model.predict(test) - measure(test)).pow(2).mean().item()
print(f"final error: {error:.4f}")
