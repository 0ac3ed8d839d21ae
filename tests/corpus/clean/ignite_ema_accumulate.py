"""Ignite's supervised trainer divides by its accumulation steps itself, the warm-up schedule and the EMA handler are attached to the events at which the optimiser has stepped, and the loss it outputs is multiplied back by the library."""
import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import EMAHandler
from ignite.metrics import Accuracy, Loss
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(6)
K = 4
X = torch.randn(1152, 10)
Y = ((X[:, 0] > 0).long() + 2 * (X[:, 1:3].prod(1) > 0).long())
train_loader = DataLoader(TensorDataset(X[:1024], Y[:1024]), batch_size=32, shuffle=True)
val_loader = DataLoader(TensorDataset(X[1024:], Y[1024:]), batch_size=128)

model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
criterion = nn.CrossEntropyLoss()
trainer = create_supervised_trainer(model, optimizer, criterion, gradient_accumulation_steps=K)
ema = EMAHandler(model, momentum=0.1)
ema.attach(trainer, name="ema_momentum", event=Events.ITERATION_COMPLETED(every=K))
warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=8)
trainer.add_event_handler(Events.ITERATION_COMPLETED(every=K), lambda: warmup.step())

metrics = {"loss": Loss(criterion), "acc": Accuracy()}
raw_eval = create_supervised_evaluator(model, metrics=metrics)
ema_eval = create_supervised_evaluator(ema.ema_model, metrics={"loss": Loss(criterion), "acc": Accuracy()})


@trainer.on(Events.EPOCH_COMPLETED(every=2))
def report(engine):
    raw_eval.run(val_loader)
    ema_eval.run(val_loader)
    print(f"Epoch {engine.state.epoch}: val loss {raw_eval.state.metrics['loss']:.4f}, acc {raw_eval.state.metrics['acc']:.3f}; EMA acc {ema_eval.state.metrics['acc']:.3f}")


trainer.run(train_loader, max_epochs=14)
