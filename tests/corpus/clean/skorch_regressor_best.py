"""A skorch regressor with an internal validation split, early stopping and a checkpoint whose best parameters are loaded back when training ends."""
import tempfile
import numpy as np
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Checkpoint, EarlyStopping, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn

torch.set_num_threads(1)
np.random.seed(10)
torch.manual_seed(10)


class Regressor(nn.Module):
    def __init__(self, hidden=40, p=0.1):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, hidden), nn.ELU(), nn.Dropout(p), nn.Linear(hidden, 1))

    def forward(self, X):
        return self.layers(X)


X = np.random.uniform(-1, 1, (900, 8)).astype(np.float32)
y = (np.sin(3 * X[:, :1]) + X[:, 1:2] * X[:, 2:3] + 0.05 * np.random.randn(900, 1)).astype(np.float32)

with tempfile.TemporaryDirectory() as d:
    net = NeuralNetRegressor(
        Regressor, module__hidden=64, criterion=nn.MSELoss, optimizer=torch.optim.SGD, optimizer__momentum=0.9, lr=0.05, batch_size=60, max_epochs=40,
        iterator_train__shuffle=True, train_split=ValidSplit(5, stratified=False),
        callbacks=[EarlyStopping(patience=6), Checkpoint(dirname=d, monitor="valid_loss_best", load_best=True),
                   LRScheduler(policy="ReduceLROnPlateau", monitor="valid_loss", factor=0.5, patience=3)],
    )
    net.fit(X, y)
    print("R2 on everything", round(net.score(X, y), 3))
