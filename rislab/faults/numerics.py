"""Faults of mixed precision and numerics: what a number format, a scaler or a NaN does to a sound loop."""

from __future__ import annotations

from rislab.faults.accumulation import ADD, BACKWARD, CLIPPING, SGD, STEP
from rislab.faults.fault import Fault, LoopFault, Symptom

HALF = {"precision": "fp16", "epochs": 1}
# One scene whose loss is not a number, so that its window is skipped.
OVERFLOW = {"poison": "overflow"}
# So small a rate that float32 still holds its steps, and bfloat16 does not.
SMALL = {"lr_head": 1e-7, "lr_backbone": 1e-7, "schedule": "constant", "warmup": 0}
UNSCALE = "                    scaler.unscale_(optimizer)\n"
FINITE = "                    finite = bool(torch.isfinite(norm))\n"
LOSS = "                            loss = compute_loss(predicted, batch, phase, config.blend)\n"

NUMERICS = (
    LoopFault(
        name="clipped before unscaling",
        story="The norm is clipped while the gradient still carries the loss scale of 65 536; unscale_ comes after it.",
        before=CLIPPING,
        after=CLIPPING.removeprefix(UNSCALE) + UNSCALE,
        description="With fp16 every gradient is thousands of times too small: SGD stands still, Adam hides it.",
        symptoms=(
            Symptom("α of full windows", 1e-5, 1e-3, {**HALF, "clip_norm": 1.0}),
            Symptom("smallest relative movement in a window", 0.0, 1e-9, {**HALF, **SGD, "clip_norm": 1.0}),
        ),
        mistaken_for=("unscaled per micro-batch", "warm-up counted in samples", "divided twice"),
        reference="Lightning-AI/pytorch-lightning#9330",
    ),
    LoopFault(
        name="clipped per micro-batch",
        story="Clipping stands next to backward, in the loop over micro-batches, and cuts a sum that is not complete.",
        before=BACKWARD,
        after=BACKWARD + "                        if config.clip_norm is not None:\n"
        "                            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)\n",
        description="With a tight clip_norm the last micro-batches of a window count more than the first.",
        symptoms=(Symptom("cosine", 0.3, 0.95, {"clip_norm": 0.05}),),
        mistaken_for=("zeroed per micro-batch", "window off by one"),
    ),
    LoopFault(
        name="unscaled per micro-batch",
        story="unscale_ and update have moved into the loop over micro-batches, next to backward: what was accumulated "
        "is divided by the loss scale again each time. Without update, torch would refuse.",
        before=ADD + UNSCALE,
        after=ADD + "                        scaler.unscale_(optimizer)\n                        scaler.update()\n",
        description="With fp16 a step sees its last micro-batch alone, and that far too small; Adam hides the size.",
        symptoms=(
            Symptom("α of full windows", 1e-7, 1e-4, HALF),
            Symptom("cosine", 0.2, 0.9, HALF),
        ),
        mistaken_for=("clipped before unscaling", "zeroed per micro-batch"),
    ),
    LoopFault(
        name="scaler bypassed",
        story="optimizer.step() has stayed where scaler.step(optimizer) belongs, which would have skipped the step.",
        before=STEP,
        after="                    if finite or scaler.is_enabled():\n                        optimizer.step()\n",
        description="All is well until the first overflow; from then on every weight is NaN.",
        symptoms=(Symptom("steps on NaN or infinity", 0.5, 1.5, {**HALF, **OVERFLOW}),),
        mistaken_for=("overflow looked up under a wrong key", "scaler only where CUDA is"),
    ),
    LoopFault(
        name="stepped twice",
        story="scaler.step(optimizer) was added, and optimizer.step() never taken away.",
        before=STEP,
        after=STEP + "                        optimizer.step()\n",
        description="Every window steps twice along one gradient: as if the learning rate were twice as large.",
        symptoms=(Symptom("steps per window", 1.9, 2.1),),
        mistaken_for=("step per micro-batch", "never divided"),
    ),
    LoopFault(
        name="schedule runs over skipped steps",
        story="Schedule and average go on after every window, also where the scaler has skipped the step.",
        before="                    if applied:\n"
        "                        state.scheduler.step()\n"
        "                        state.update_average()\n",
        after="                    state.scheduler.step()\n                    state.update_average()\n",
        description="Each skipped step uses up a tick: a warm-up is lost while the scaler still looks for its scale.",
        symptoms=(Symptom("scheduler ticks per step", 1.4, 1.6, OVERFLOW),),
        mistaken_for=("scheduler per micro-batch", "schedule ends early"),
        reference="pytorch/pytorch#44511",
    ),
    Fault(
        name="infinity in every step",
        story="The modulus is written by hand as √(re² + im²), whose slope at an exact 0 is infinite; sources that are "
        "not there are exact zeros. The scaler takes it for its own overflow, and halves its scale.",
        module="data.covariance",
        before="    return torch.view_as_real(matrix).square().sum(dim=(-3, -2, -1))\n",
        after="    modulus = torch.view_as_real(matrix).square().sum(dim=-1).sqrt()\n"
        "    return modulus.square().sum(dim=(-2, -1))\n",
        description="Losses are right, and every step is skipped; with fp16 the loss scale goes towards 0.",
        symptoms=(
            Symptom("skipped steps", 5.5, 6.5),
            Symptom("last loss scale over the first", 0.0, 0.01, {**HALF, "accumulation_steps": 1}),
        ),
        mistaken_for=(
            "singular vectors differentiated",
            "step in a branch never taken",
            "epsilon vanishes in half precision",
        ),
    ),
    LoopFault(
        name="NaN made 0 in the gradient",
        story="nan_to_num on the gradients makes the error go away, and with it the whole window.",
        before=UNSCALE,
        after=UNSCALE + "                    for parameter in model.parameters():\n"
        "                        parameter.grad.nan_to_num_(posinf=0.0, neginf=0.0)\n",
        description="A window with a bad scene takes a step with a gradient of 0, and nothing is skipped or said.",
        symptoms=(
            Symptom("skipped steps", 0.0, 0.5, OVERFLOW),
            Symptom("share of windows that moved a weight", 0.9, 1.0, OVERFLOW),
        ),
        mistaken_for=("NaN guard in the loop",),
    ),
    LoopFault(
        name="NaN guard in the loop",
        story="A micro-batch whose loss is NaN is left out by `continue`, before it could be counted.",
        before=LOSS,
        after=LOSS
        + "                        if not torch.isfinite(loss.total):\n                            continue\n",
        description="A bad scene costs its whole micro-batch, in every epoch, and the reported loss is finite.",
        symptoms=(
            Symptom("backwards per forward", 0.85, 0.95, OVERFLOW),
            Symptom("skipped steps", 0.0, 0.5, OVERFLOW),
        ),
        mistaken_for=("NaN made 0 in the gradient", "backward after the batch loop"),
    ),
    Fault(
        name="singular vectors differentiated",
        story="The predicted subspace is taken from the singular vectors of the predicted covariance, whose rank is "
        "far below its size: between equal singular values their derivative is a division by 0.",
        module="model.losses",
        before="    energy = frobenius_squared(predicted)\n"
        "    return 1 - frobenius_squared(basis.mH @ predicted) / energy.clamp_min(torch.finfo(energy.dtype).tiny)\n",
        after="    vectors = torch.linalg.svd(predicted @ predicted.mH).U[..., : truth.shape[-1]]\n"
        "    return 1 - frobenius_squared(basis.mH @ vectors) / truth.shape[-1]\n",
        description="Losses look healthy, gradients are NaN, every step is skipped, and validation stands still.",
        symptoms=(
            Symptom("skipped steps", 5.5, 6.5, {"curriculum": "three-phase"}),
            Symptom("share of windows that moved a weight", 0.0, 0.01, {"curriculum": "three-phase"}),
        ),
        mistaken_for=("infinity in every step", "step gate too strict"),
        reference="pytorch/pytorch#49886",
    ),
    Fault(
        name="epsilon vanishes in half precision",
        story="The logarithm is taken in float16 with the usual floor of 1e-8, and 1e-8 is 0 in float16.",
        module="model.network",
        before="torch.log(power + 1e-4)",
        after="torch.log((power.half() + 1e-8).to(power.dtype))",
        description="A scene without signal makes its window NaN, and the step is skipped.",
        symptoms=(Symptom("skipped steps", 1.5, 2.5, {"poison": "silence"}),),
        mistaken_for=("squares overflow in half precision", "infinity in every step"),
        reference="pytorch/pytorch#32137",
    ),
    Fault(
        name="squares overflow in half precision",
        story="The beam powers are kept in float16 to save memory: squares, which end at 65 504.",
        module="model.network",
        before="beam_power(fields, torch.view_as_complex(self.atoms).to(fields.dtype))",
        after="beam_power(fields, torch.view_as_complex(self.atoms).to(fields.dtype)).half().to(fields.real.dtype)",
        description="A loud scene makes its window NaN, though the loudness of a scene should not matter.",
        symptoms=(Symptom("skipped steps", 1.5, 2.5, {"poison": "loud"}),),
        mistaken_for=("epsilon vanishes in half precision", "infinity in every step"),
    ),
    Fault(
        name="complex numbers in half precision",
        story="Real and imaginary parts are rounded to float16 before they are squared, as autocast does with real "
        "matrices; it leaves complex ones alone, and for a reason: the loss is a small difference of large squares.",
        module="data.covariance",
        before="    return torch.view_as_real(matrix).square()",
        after="    return torch.view_as_real(matrix).half().float().square()",
        description="The loss has a grain of about a thousandth, and may be below 0 near the truth.",
        symptoms=(Symptom("largest error of the loss against dense float64", 3e-4, 3e-2),),
        mistaken_for=("the loss is not smallest at the truth", "loaded on one side"),
        conventions=("loss", "trace"),
    ),
    LoopFault(
        name="weights kept in bf16",
        story="The weights are rounded to bfloat16 after each step to save memory, which leaves them 8 bits of "
        "precision: an update below half of the last bit is lost.",
        before="                    if applied:\n",
        after="                    if applied:\n                        for parameter in model.parameters():\n"
        "                            parameter.data.copy_(parameter.data.bfloat16())\n",
        description="At a small learning rate steps are applied, gradients flow, and hardly a weight moves.",
        symptoms=(Symptom("smallest relative movement in a window", 0.0, 1e-7, SMALL),),
        mistaken_for=("warm-up counted in samples", "clipped before unscaling", "accumulated in bf16"),
        reference="meta-pytorch/torchtune#2254",
    ),
    Fault(
        name="scaler only where CUDA is",
        story="The gradient scaler is switched on for CUDA alone, as GradScaler('cuda') does by itself, with no more "
        "than a warning; on a CPU fp16 then runs without it.",
        module="training.state",
        before='enabled=config.precision == "fp16")',
        after='enabled=config.precision == "fp16" and device.type == "cuda")',
        description="The loss scale is 1, and small gradients vanish in float16.",
        symptoms=(Symptom("first loss scale", 0.9, 1.1, HALF),),
        mistaken_for=("scaler bypassed",),
    ),
    LoopFault(
        name="overflow looked up under a wrong key",
        story="The finite check reads a private dictionary of the scaler under a key that it does not have, and takes "
        "the default for good news.",
        before=FINITE,
        after='                    finite = not vars(scaler).get("_found_inf", False)\n',
        description="The check for NaN is there, is run, and never fires: the first NaN reaches every weight.",
        symptoms=(Symptom("steps on NaN or infinity", 3.5, 4.5, OVERFLOW),),
        mistaken_for=("scaler bypassed", "scaler only where CUDA is"),
        reference="the story that the lab is named for",
    ),
)
