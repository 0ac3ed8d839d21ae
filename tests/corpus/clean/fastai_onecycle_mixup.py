"""A fastai learner trains with fit_one_cycle under mixup, gradient clipping and gradient accumulation, all by its own callbacks."""
import random
import numpy as np
import torch
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import *
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from torch import nn

random.seed(2); np.random.seed(2); torch.manual_seed(2)
torch.set_num_threads(1)
x = torch.randn(1200, 10)
y = (x @ torch.randn(10, 4)).argmax(1)
items = list(zip(x, y))
dls = DataLoaders(DataLoader(items[:960], bs=32, shuffle=True, num_workers=0), DataLoader(items[960:], bs=120, num_workers=0))
model = nn.Sequential(nn.Linear(10, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=[MixUp(0.2), GradientAccumulation(64), GradientClip(1.0)])
with learn.no_bar():
    learn.fit_one_cycle(6, 1e-2)
