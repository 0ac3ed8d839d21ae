import os
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))


def to_loader(frame, predictor, batch_size=32, shuffle=True):
    columns = [c for c in frame if c != predictor]
    x = torch.stack([frame[c] for c in columns], 1)
    return DataLoader(TensorDataset(x, frame[predictor]), batch_size=batch_size, shuffle=shuffle)


def patients(n):
    age = torch.randn(n)
    dose = torch.randn(n)
    lab = torch.randn(n)
    stay = 4 + 1.5 * age - dose + 0.5 * age * lab + 0.2 * torch.randn(n)
    return {"age": age, "dose": dose, "lab": lab, "days": stay}


train_df, test_df = patients(600), patients(300)
train_loader = to_loader(train_df, "days")
test_loader = to_loader(test_df, "days", shuffle=False)

model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 1))
optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
for epoch in range(10):
    total = 0.0
    for features, days in train_loader:
        loss = nn.functional.mse_loss(model(features).squeeze(1), days)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(days)
    print(f"Epoch {epoch + 1}/10 - mse: {total / 600:.4f}")

model.eval()
with torch.no_grad():
    preds = torch.cat([model(features).squeeze(1) for features, _ in test_loader])
actual = test_df["days"]
for p, a in list(zip(preds.tolist(), actual.tolist()))[:3]:
    print(f"pred {p:.2f} actual {a:.2f}")
print(f"final error: {(preds - actual).pow(2).mean().item():.4f}")
