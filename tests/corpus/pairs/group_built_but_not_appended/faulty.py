import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

tags = torch.randn(7, 18)

def sentences(n, length=8):
    y = torch.randint(0, 7, (n, length))
    x = tags[y] + 1.2 * torch.randn(n, length, 18)
    x[:, 1:] += 0.5 * tags[y[:, :-1]]
    return x, y

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = nn.TransformerEncoderLayer(18, 2, 36, dropout=0.1, batch_first=True)
        self.fc = nn.Linear(18, 7)

    def forward(self, x):
        return self.fc(self.bert(x))

class NERTrainer:
    def __init__(self, model, lr=2e-3, epochs=6):
        self.model, self.lr, self.epochs = model, lr, epochs
        self.multiModal_before_train()

    def multiModal_before_train(self):
        parameters = []
        body = {"lr": self.lr, "weight_decay": 1e-2, "params": []}
        for name, param in self.model.named_parameters():
            if "bert" in name:
                body["params"].append(param)
        parameters.append(body)
        head = {"lr": 5e-2, "weight_decay": 1e-2, "params": []}
        for name, param in self.model.named_parameters():
            if name.startswith("fc"):
                head["params"].append(param)
        self.optimizer = torch.optim.AdamW(parameters)

    def train(self, x, y):
        for epoch in range(self.epochs):
            for idx in torch.randperm(len(x)).split(25):
                loss = F.cross_entropy(self.model(x[idx]).flatten(0, 1), y[idx].flatten())
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            print(f"Epoch {epoch + 1}/{self.epochs} loss:{loss.item():.5f}")

trainer = NERTrainer(Tagger())
trainer.train(*sentences(250))
trainer.model.eval()
x, y = sentences(400)
with torch.no_grad():
    print(f"final error: {(trainer.model(x).argmax(-1) != y).float().mean().item():.4f}")
