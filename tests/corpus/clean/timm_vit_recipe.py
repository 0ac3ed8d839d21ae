"""timm's recipe on a small ViT: mixup with soft targets, an optimiser without decay on biases, a schedule stepped by update, clipping and a ModelEma evaluated beside the model."""
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, accuracy, dispatch_clip_grad, random_seed

torch.set_num_threads(1)
random_seed(42)

images = torch.randn(512, 3, 16, 16) * 0.5
labels = torch.randint(0, 4, (512,))
for c in range(4):
    images[labels == c, :, (c // 2) * 8:(c // 2) * 8 + 8, (c % 2) * 8:(c % 2) * 8 + 8] += 1.2
train_x, train_y, val_x, val_y = images[:384], labels[:384], images[384:], labels[384:]

model = VisionTransformer(img_size=16, patch_size=4, num_classes=4, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2.0, drop_path_rate=0.05)
optimizer = create_optimizer_v2(model, opt="adamw", lr=4e-3, weight_decay=0.05, filter_bias_and_bn=True)
num_epochs, updates_per_epoch = 8, 12
scheduler = CosineLRScheduler(optimizer, t_initial=num_epochs * updates_per_epoch, warmup_t=6, warmup_lr_init=1e-4, lr_min=1e-5, t_in_epochs=False)
mixup = Mixup(mixup_alpha=0.2, num_classes=4, label_smoothing=0.05)
criterion = SoftTargetCrossEntropy()
ema = ModelEmaV3(model, decay=0.9)


def validate(net):
    net.eval()
    with torch.inference_mode():
        return accuracy(net(val_x), val_y)[0].item()


num_updates = 0
for epoch in range(num_epochs):
    model.train()
    losses = AverageMeter()
    for idx in torch.randperm(384).split(32):
        x, target = mixup(train_x[idx].clone(), train_y[idx])
        loss = criterion(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(model.parameters(), 1.0, mode="norm")
        optimizer.step()
        num_updates += 1
        ema.update(model, step=num_updates)
        scheduler.step_update(num_updates=num_updates)
        losses.update(loss.item(), len(x))
    print(f"Train: {epoch} Loss: {losses.avg:.4f} LR: {optimizer.param_groups[0]['lr']:.2e} Acc@1: {validate(model):.1f} (EMA {validate(ema.module):.1f})")
