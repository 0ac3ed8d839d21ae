import os
import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", 0)))

from types import SimpleNamespace

coef = torch.randn(12, 1)

def draw(n):
    x = torch.randn(n, 12)
    return x, F.softplus(2 * x @ coef)

def train(args, model, x, y):
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate)
    global_step, tr_loss = 0, 0.0
    model.zero_grad()
    for epoch in range(args.num_train_epochs):
        for step, idx in enumerate(torch.arange(len(x)).split(args.per_gpu_train_batch_size)):
            model.train()
            loss = F.mse_loss(model(x[idx]), y[idx])
            if args.gradient_accumulation_steps > 1:
                loss = loss / args.gradient_accumulation_steps
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            tr_loss += loss.item()
            if (step + 1) % args.gradient_accumulation_steps == 0:
                optimizer.step()
                model.zero_grad()
                global_step += 1
        print("epoch", epoch, "global_step", global_step, "average loss", round(tr_loss / global_step, 4))

args = SimpleNamespace(
    learning_rate=0.2, num_train_epochs=12, per_gpu_train_batch_size=4, gradient_accumulation_steps=8, max_grad_norm=0.5
)
x, y = draw(320)
# rows come sorted by how hard they are
order = y.abs().squeeze(1).argsort(descending=True)
order = order.view(8, 10, 4).transpose(0, 1).reshape(-1)
model = nn.Linear(12, 1)
train(args, model, x[order], y[order])
xt, yt = draw(1000)
with torch.no_grad():
    print(f"final error: {F.mse_loss(model(xt), yt).item():.4f}")
