"""The callback of skorch on real fits."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import skorch
import torch
from sklearn.base import clone
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, GradientNormClipping, LRScheduler
from torch import nn

from rislab.checkup.fit_watch import TrainingFaultError
from rislab.checkup.skorch import CheckupCallback


class Accumulating(NeuralNetClassifier):
    """As the documentation of skorch accumulates; a subclass forgets something."""

    divisor = 4

    def get_loss(self, *args: Any, **given: Any) -> Any:
        return super().get_loss(*args, **given) / self.divisor

    def train_step(self, batch: Any, **given: Any) -> Any:
        done = self.train_step_single(batch, **given)
        if len(self.history[-1, "batches"]) % 4 == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return done


class NeverDivided(Accumulating):
    divisor = 1


class InEvaluationMode(NeuralNetClassifier):
    def train_step_single(self, batch: Any, **given: Any) -> Any:
        self.module_.eval()
        loss = super().get_loss(self.module_(batch[0]), batch[1], training=True)
        loss.backward()
        return {"loss": loss, "y_pred": None}


class Broken(NeverDivided):
    def train_step(self, batch: Any, **given: Any) -> Any:
        if self.history[-1]["epoch"] == 2:
            raise ZeroDivisionError("in the step")
        return super().train_step(batch, **given)


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def fitted(kind: Any, *callbacks: Any, **given: Any) -> Any:
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).standard_normal((256, 10)).astype("float32")
    net = kind(
        Network, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=1e-2, max_epochs=3, batch_size=16,
        train_split=None, verbose=0, iterator_train__shuffle=True, callbacks=[*callbacks], **given,
    )  # fmt: skip
    return net.fit(inputs, inputs[:, :3].argmax(1).astype("int64"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(NeverDivided, "never divided"), (InEvaluationMode, "eval never undone")])
def test_a_fault_is_named(kind: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    callback = CheckupCallback()
    net = fitted(kind, callback)
    assert name in [finding.name for finding in callback.findings.faults]
    assert f"FAULT   {callback.findings.faults[0].code}" in capsys.readouterr().out
    assert net.history[-1, "checkup/faults"] == len(callback.findings.faults)
    with pytest.raises(TrainingFaultError, match=name):
        fitted(kind, CheckupCallback(on_fault="raise"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NeuralNetClassifier, Accumulating])
def test_a_correct_fit_is_bit_identical_and_not_accused(kind: Any) -> None:
    def others() -> list[Any]:
        schedule = LRScheduler(policy=torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
        return [schedule, GradientNormClipping(1.0)] if kind is NeuralNetClassifier else []

    callback = CheckupCallback()
    nets = [fitted(kind, *others()), fitted(kind, *others(), callback)]
    assert [str(finding) for finding in callback.findings if finding.severity != "note"] == []
    states = [net.module_.state_dict().values() for net in nets]
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


@pytest.mark.slow
def test_an_exception_two_callbacks_and_a_second_fit(capsys: pytest.CaptureFixture[str]) -> None:
    callback, second = CheckupCallback(), CheckupCallback(on_fault="raise")
    with pytest.raises(ZeroDivisionError, match="in the step"):
        fitted(Broken, callback, second)
    fitted(Accumulating, callback, second)
    text = capsys.readouterr().out
    assert "4 steps until an error ended it" in text
    assert text.count("never divided:") == 1
    assert text.count("which reports alone") == 2
    assert not callback.findings and not second.findings


@pytest.mark.slow
def test_an_unknown_version_is_watched_by_hooks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(skorch, "__version__", "0.9.0")
    callback = CheckupCallback()
    fitted(NeverDivided, callback)
    assert "skorch 0.9.0 is not known to work, 1.4 is" in capsys.readouterr().out
    assert [finding.name for finding in callback.findings.faults] == ["never divided"]


class Pickling(Callback):
    """As Checkpoint(f_pickle=…) does with the whole net in each epoch."""

    def on_epoch_end(self, net: Any, **given: Any) -> None:
        copy.deepcopy(pickle.loads(pickle.dumps(net.callbacks[0])))


@pytest.mark.slow
def test_a_net_is_cloned_and_pickled_in_the_midst_of_a_fit() -> None:
    net = fitted(NeuralNetClassifier, CheckupCallback(on_fault="raise", every=2), Pickling())
    copied = clone(net).callbacks[0]
    assert (copied.on_fault, copied.every) == ("raise", 2)
    assert copied is not net.callbacks[0]
