"""Manual optimisation in Lightning with an auxiliary optimiser, accumulation over four batches in equal shares, clipping before the step and the schedule ticked at the end of each epoch."""
import logging, warnings
import torch, lightning as L
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
warnings.filterwarnings("ignore"); logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)

class Module(L.LightningModule):
    def __init__(self, k=4):
        super().__init__()
        self.automatic_optimization = False
        self.k = k
        self.body = nn.Sequential(nn.Linear(9, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
        self.out = nn.Linear(48, 2)

    def training_step(self, batch, batch_idx):
        body_opt, out_opt = self.optimizers()
        x, y = batch
        loss = nn.functional.cross_entropy(self.out(self.body(x)), y)
        self.manual_backward(loss / self.k)
        self.log("loss", loss, on_step=False, on_epoch=True)
        if (batch_idx + 1) % self.k == 0:
            for opt in (body_opt, out_opt):
                self.clip_gradients(opt, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
                opt.step()
                opt.zero_grad()

    def on_train_epoch_end(self):
        for s in self.lr_schedulers():
            s.step()
        print("epoch", self.current_epoch, "loss %.4f" % self.trainer.callback_metrics["loss"].item(), "lr", [round(s.get_last_lr()[0], 5) for s in self.lr_schedulers()])

    def configure_optimizers(self):
        a = torch.optim.Adam(self.body.parameters(), lr=6e-3)
        b = torch.optim.SGD(self.out.parameters(), lr=0.2, momentum=0.5)
        return [a, b], [torch.optim.lr_scheduler.ExponentialLR(a, 0.9), torch.optim.lr_scheduler.StepLR(b, 4, 0.5)]

L.seed_everything(2, verbose=False)
X = torch.randn(640, 9)
loader = DataLoader(TensorDataset(X, (X[:, 0] * X[:, 1] > 0).long()), batch_size=16, shuffle=True)
L.Trainer(max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False).fit(Module(), loader)
