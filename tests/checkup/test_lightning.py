"""The callback of Lightning on real fits: what it names, what it reads from the Trainer, and that it changes no bit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from rislab.checkup.fit_watch import TrainingFaultError
from rislab.checkup.lightning import CheckupCallback
from rislab.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


class Regression(lightning.LightningModule):
    """A correct module; a subclass brings a fault."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss * self.factor

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val_loss", mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class DividedTwice(Regression):
    factor = 0.25


class LeavesBatchesOut(Regression):
    """None instead of a loss: Lightning steps on no gradient, which changes nothing."""

    def training_step(self, batch: list[Tensor], index: int) -> Any:
        return None if index % 5 == 4 else super().training_step(batch, index)


class PerEpoch(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class PerEpochDividedTwice(PerEpoch):
    factor = 0.25


class InEvaluationMode(Regression):
    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        self.eval()
        return super().training_step(batch, index)


class StaleParameters(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
        self.net[4] = nn.Linear(16, 1)
        return optimizer


class Manual(Regression):
    """Accumulates by hand; `clips` without unscaling, or never zeroes."""

    clips = zeroes = True
    unscales = True

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], index: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(mse_loss(self(batch[0]), batch[1]) / 4)
        if (index + 1) % 4:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if self.clips:
            if scaler is not None and self.unscales:
                scaler.unscale_(optimizer.optimizer)
            self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="norm")
        if scaler is not None and self.unscales:
            scaler.step(optimizer.optimizer)
            scaler.update()
        else:
            optimizer.step()
        if self.zeroes:
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class ClippedScaled(Manual):
    unscales = False


class NeverZeroed(Manual):
    clips = zeroes = False


class TwoOptimisers(lightning.LightningModule):
    """One network, two optimisers; `zeroes` only the first of them."""

    zeroes = 2

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = nn.Linear(10, 8), nn.Linear(8, 1)

    def training_step(self, batch: list[Tensor], index: int) -> None:
        optimizers = self.optimizers()
        self.manual_backward(mse_loss(self.second(self.first(batch[0]).relu()), batch[1]))
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers[: self.zeroes]:
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 1e-2) for part in (self.first, self.second)]


class OneNeverZeroed(TwoOptimisers):
    zeroes = 1


class Gan(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
        self.critic = nn.Sequential(nn.Linear(10, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def training_step(self, batch: list[Tensor], index: int) -> None:
        of_generator, of_critic = self.optimizers()
        real = batch[0]
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        self.toggle_optimizer(of_generator)
        fake = self.generator(torch.randn(len(real), 8))
        loss = bce(self.critic(fake), ones)
        of_generator.zero_grad()
        self.manual_backward(loss)
        of_generator.step()
        self.untoggle_optimizer(of_generator)
        self.toggle_optimizer(of_critic)
        loss = 0.5 * (bce(self.critic(real), ones) + bce(self.critic(fake.detach()), zeros))
        of_critic.zero_grad()
        self.manual_backward(loss)
        of_critic.step()
        self.untoggle_optimizer(of_critic)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(net.parameters(), 2e-4) for net in (self.generator, self.critic)]


class Broken(Regression):
    """Its training step fails after two windows."""

    factor = 0.25

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        if index == 9:
            raise ZeroDivisionError("in the step")
        return super().training_step(batch, index)


def loaders(samples: int = 256) -> list[DataLoader[Any]]:
    inputs = torch.randn(samples, 10, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, inputs[:, :1].sin())
    return [DataLoader(data, 16, shuffle=True), DataLoader(data, 64)]


def trainer(*callbacks: Any, **given: Any) -> lightning.Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return lightning.Trainer(**settings | given | {"callbacks": [*callbacks, *given.get("callbacks", ())]})


def fitted(module: lightning.LightningModule, *callbacks: Any, samples: int = 256, **given: Any) -> Any:
    torch.manual_seed(0)
    trainer(*callbacks, **given).fit(module, *loaders(samples))
    return module


def half_precision() -> dict[str, Any]:
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}


AUTOMATIC = {"accumulate_grad_batches": 4, "gradient_clip_val": 1.0}


def more_and_more() -> dict[str, Any]:
    return {"callbacks": [GradientAccumulationScheduler({0: 2, 1: 4})], "max_epochs": 4}


def averaged() -> dict[str, Any]:
    return {"callbacks": [StochasticWeightAveraging(1e-3, swa_epoch_start=1)], "max_epochs": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "given", "name"),
    [
        (DividedTwice, lambda: AUTOMATIC, "divided twice"),
        (InEvaluationMode, lambda: AUTOMATIC, "eval never undone"),
        (StaleParameters, dict, "optimiser holds stale parameters"),
        (ClippedScaled, half_precision, "clipped before unscaling"),
        (NeverZeroed, dict, "never zeroed"),
        (OneNeverZeroed, dict, "never zeroed"),
        (PerEpochDividedTwice, more_and_more, "divided twice"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_named(kind: Any, given: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    callback = CheckupCallback()
    fitted(kind(), callback, **given())
    assert name in [finding.name for finding in callback.findings.faults][:2]
    assert f"FAULT   {callback.findings.faults[0].code}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Regression, AUTOMATIC),
        (Regression, {}),
        (Regression, AUTOMATIC | {"precision": "bf16-mixed"}),
        (Regression, AUTOMATIC | {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
        (Regression, {"accumulate_grad_batches": 3, "samples": 250}),
        (Regression, {"gradient_clip_val": 1.0, "half": True}),
        (Manual, {}),
        (Manual, {"half": True}),
        (Gan, {}),
        (Regression, {"precision": "64-true", "accumulate_grad_batches": 2}),
        (TwoOptimisers, {}),
        (LeavesBatchesOut, {}),
        (PerEpoch, more_and_more),
        (Regression, averaged),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_correct_fit_is_not_accused(kind: Any, given: Any) -> None:
    """Lightning divides by K in every window, the last of an epoch included: that is no fault of the module's."""
    callback = CheckupCallback()
    settings = given() if callable(given) else dict(given)
    settings |= half_precision() if settings.pop("half", False) else {}
    fitted(kind(), callback, **settings)
    severe = [str(finding) for finding in callback.findings if finding.severity != "note"]
    assert severe == [] or (settings.get("samples") and callback.findings[0].name == "ragged window divided by K")
    assert callback.findings.unjudged == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Regression, Manual, Gan])
def test_a_fit_is_bit_identical(kind: Any) -> None:
    states = []
    for callbacks in ([], [CheckupCallback()], [CheckupCallback(every=1)]):
        torch.manual_seed(1)
        module = fitted(kind(), *callbacks)
        states.append(([value.clone() for value in module.state_dict().values()], torch.get_rng_state()))
    (bare, state), *others = states
    for weights, after in others:
        assert all(torch.equal(one, other) for one, other in zip(bare, weights, strict=True))
        assert torch.equal(state, after)


def test_what_is_read_from_the_trainer_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(Regression(), CheckupCallback(), **AUTOMATIC)
    text = capsys.readouterr().out
    assert "rislab checkup of Trainer.fit(), 8 steps: AdamW over Regression: net.0.weight, net.0.bias" in text
    settings = "accumulate_grad_batches 4, gradient_clip_val 1.0, precision 32-true, schedule per step"
    assert f"read from the trainer: {settings}\n" in text
    # Its network has a BatchNorm, which is noted where gradients accumulate.
    assert "batch statistics per micro-batch" in text and "All checks passed, 1 note." in text


def test_findings_go_to_the_loggers(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    fitted(DividedTwice(), CheckupCallback(), logger=logger, log_every_n_steps=1, **AUTOMATIC)
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open()))
    last = {name: float(value) for name, value in rows[-1].items() if value}
    assert last["checkup/faults"] == last["checkup/C1 divided twice"] == 1
    assert last["checkup/warnings"] == 0


def test_faults_are_raised_on_request() -> None:
    callback = CheckupCallback(on_fault="raise")
    fitted(Regression(), callback)
    with pytest.raises(TrainingFaultError, match="C1 divided twice") as caught:
        fitted(DividedTwice(), callback, **AUTOMATIC)
    assert caught.value.findings == callback.findings
    for given in ({"on_fault": "explode"}, {"every": 0}):
        with pytest.raises(InputError, match="allowed: "):
            CheckupCallback(**given)


def test_an_exception_in_fit_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    callback = CheckupCallback(on_fault="raise")
    with pytest.raises(ZeroDivisionError, match="in the step"):
        fitted(Broken(), callback, **AUTOMATIC)
    assert [finding.name for finding in callback.findings.faults] == ["divided twice"]
    assert "2 steps until an error ended it" in capsys.readouterr().out
    assert hooks() == 0


@pytest.mark.slow
def test_each_fit_is_judged_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    callback = CheckupCallback()
    fitted(DividedTwice(), callback, **AUTOMATIC)
    first = callback.findings
    one, module = trainer(callback, **AUTOMATIC), Regression()
    one.fit(module, *loaders())
    assert first.faults and not callback.findings.faults
    one.fit_loop.max_epochs = 3
    one.fit(module, *loaders())
    assert capsys.readouterr().out.count("rislab checkup of Trainer.fit()") == 3
    assert hooks() == 0


def test_two_callbacks_report_once(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = CheckupCallback(), CheckupCallback(on_fault="raise")
    fitted(DividedTwice(), first, second, **AUTOMATIC)
    text = capsys.readouterr().out
    assert text.count("FAULT") == 1
    assert text.count("the trainer has another CheckupCallback before this one, which reports alone") == 1
    assert first.findings.faults and not second.findings


def test_an_unknown_version_is_watched_by_hooks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lightning, "__version__", "9.1.2")
    callback = CheckupCallback()
    fitted(DividedTwice(), callback, **AUTOMATIC)
    assert (
        "lightning 9.1.2 is not known to work, 2.5 to 2.6 are: the settings of the trainer are not used"
        in capsys.readouterr().out
    )
    assert [finding.name for finding in callback.findings.faults] == ["divided twice"]


@pytest.mark.process
def test_the_first_process_reports_for_all(capfd: pytest.CaptureFixture[str]) -> None:
    callback = CheckupCallback(on_fault="raise")
    with pytest.raises(Exception, match="C1 divided twice"):
        fitted(DividedTwice(), callback, strategy="ddp_fork", devices=2, **AUTOMATIC)
    text = capfd.readouterr().out
    assert text.count("rislab checkup of Trainer.fit()") == 1
    assert "(rank 0, 1)" in text


def hooks() -> int:
    """Global hooks of torch that are left."""
    module = torch.nn.modules.module
    return len(module._global_forward_hooks) + len(module._global_forward_pre_hooks)


@pytest.mark.slow
def test_a_fault_is_at_the_loss_and_not_at_the_line_of_the_fit() -> None:
    line = Regression.training_step.__code__.co_firstlineno + 1
    callback = CheckupCallback()
    fitted(DividedTwice(), callback, **AUTOMATIC)
    assert [finding.where.rpartition(":")[2] for finding in callback.findings.faults] == [str(line)]
