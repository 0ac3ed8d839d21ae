import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

def make_documents(n):
    x = torch.randn(n, 30)
    p = torch.sigmoid(x[:, 0] - x[:, 1])
    return x, (torch.rand(n) < p).float()

def build_split(x, y, name, num_validation, seed=17):
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    if name == "train":
        rest_x, rest_y = x[num_validation:], y[num_validation:]
        keep = perm[perm >= num_validation] - num_validation
        split = rest_x[keep], rest_y[keep]
    else:
        split = x[:num_validation], y[:num_validation]
    return split

def evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        return F.binary_cross_entropy_with_logits(model(x).squeeze(1), y).item()

def main():
    x, y = make_documents(300)
    train_x, train_y = build_split(x, y, "train", 60)
    val_x, val_y = build_split(x, y, "validation", 60)
    model = nn.Sequential(nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 1))
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for epoch in range(60):
        model.train()
        for idx in torch.randperm(len(train_x)).split(30):
            loss = F.binary_cross_entropy_with_logits(model(train_x[idx]).squeeze(1), train_y[idx])
            opt.zero_grad()
            loss.backward()
            opt.step()
        if epoch % 15 == 14:
            print(f"epoch {epoch + 1}: train {loss.item():.3f} val {evaluate(model, val_x, val_y):.3f}")
    reported = evaluate(model, val_x, val_y)
    fresh = evaluate(model, *make_documents(2000))
    print(f"reported {reported:.3f} on new data {fresh:.3f}")
    print(f"final error: {abs(fresh - reported):.4f}")

main()
