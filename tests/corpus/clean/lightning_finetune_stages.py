"""The backbone is frozen by Lightning's own finetuning callback and joins the optimiser as a new group with a lower rate at epoch 3, accumulation and clipping are left to the Trainer."""
import logging
import warnings

import lightning as L
import torch
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)


class Unfreeze(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 3:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=1e-3)


class PrintLosses(Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        m = trainer.callback_metrics
        if "train_loss_epoch" in m:
            print(f"epoch {trainer.current_epoch}: train {m['train_loss_epoch']:.4f} val {m['val_loss']:.4f} groups {len(trainer.optimizers[0].param_groups)}")


class LitClassifier(L.LightningModule):
    def __init__(self, lr=5e-3):
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()), lr=self.hparams.lr)


if __name__ == "__main__":
    L.seed_everything(17, verbose=False)
    X = torch.randn(960, 16)
    y = (X @ torch.randn(16, 5)).argmax(1)
    train, val = TensorDataset(X[:768], y[:768]), TensorDataset(X[768:], y[768:])
    trainer = L.Trainer(max_epochs=8, accelerator="cpu", accumulate_grad_batches=2, gradient_clip_val=1.0, logger=False, num_sanity_val_steps=0,
                        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[Unfreeze(), PrintLosses()])
    trainer.fit(LitClassifier(), DataLoader(train, 32, shuffle=True), DataLoader(val, 192))
