"""Faults of accumulation: what reaches the optimiser is not the gradient of the window."""

from __future__ import annotations

from rislab.faults.fault import Fault, LoopFault, Symptom

SGD = {"optimiser": "sgd"}
BACKWARD = "                        scaler.scale(weight * loss.total).backward()\n"
ADD = "                        meter.add(loss, weight)\n"
WEIGHT = "                        weight = len(batch) / window.samples\n"
ZERO = "                    optimizer.zero_grad(set_to_none=True)\n"
MICRO_BATCHES = "                    for indices in window.micro_batches:\n"
STEP = "                    if finite or scaler.is_enabled():\n                        scaler.step(optimizer)\n"
# The classical guard of a step, which forgets that the last window of an epoch may be smaller.
FULL = (
    "                    if (finite or scaler.is_enabled()) and "
    "len(window.micro_batches) == config.accumulation_steps:\n"
)
# What stands between two lines that an edit changes together.
FORWARD = """\
                        batch = data[indices]
                        with _autocast(config.precision, device):
                            predicted = model(batch.snapshots, batch.codes, batch.channel)
                            loss = compute_loss(predicted, batch, phase, config.blend)
"""
CLIPPING = """\
                    scaler.unscale_(optimizer)
                    norm = meter.measure_gradient()
                    finite = bool(torch.isfinite(norm))
                    if finite and config.clip_norm is not None and norm > config.clip_norm:
                        clip_grads_with_norm_(model.parameters(), config.clip_norm, norm)
                        meter.measure_gradient()
"""
TICK = """\
                    scaler.update()
                    applied = counter.events["steps_applied"] > stepped
                    if applied:
                        state.scheduler.step()
                        state.update_average()
                record = meter.record(epoch, phase, window, applied)
"""

ACCUMULATION = (
    LoopFault(
        name="never divided",
        story="The micro-batch losses are summed over the window without their weights.",
        before=WEIGHT,
        after="                        weight = 1.0\n",
        description="The gradient is as many times too large as the window has micro-batches; Adam hides it.",
        symptoms=(
            Symptom("α of full windows", 3.9, 4.1),
            Symptom("α of full windows", 3.9, 4.1, SGD),
            Symptom("reported over true loss", 3.6, 3.9),
        ),
        mistaken_for=("divided on the first batch only", "never zeroed"),
        checks=("accumulation",),
        reference="huggingface/transformers#34191",
    ),
    LoopFault(
        name="divided on the first batch only",
        story="The division has slipped into the branch that prints what the first batch looks like. The log takes the "
        "loss as divided, and multiplies it by the accumulation steps.",
        before=WEIGHT + BACKWARD + ADD,
        after="                        weight = 1.0\n"
        "                        if epoch == 1 and state.progress.window == 0 and indices is window.micro_batches[0]:\n"
        "                            weight = len(batch) / window.samples\n"
        + BACKWARD
        + "                        meter.add(loss, weight * config.accumulation_steps * len(batch) / window.samples)\n",
        description="Gradient and reported loss are nearly K times too large, K the micro-batches of a window; with "
        "one micro-batch a window there is nothing to see, and nothing wrong.",
        symptoms=(
            Symptom("α of the first window", 2.9, 3.3),
            Symptom("α of full windows", 3.9, 4.1),
            Symptom("reported over true loss", 3.6, 3.8),
            Symptom("α of the first window", 2.9, 3.3, SGD),
            Symptom("reported over true loss", 3.6, 3.8, SGD),
        ),
        mistaken_for=("never divided", "loop tail in a branch never taken", "backward after the batch loop"),
        checks=("accumulation",),
        reference="the story that the lab is named for",
    ),
    LoopFault(
        name="divided twice",
        story="The loss is a share of the window already when the loop divides it by the accumulation steps once more.",
        before=BACKWARD,
        after="                        scaler.scale(weight * loss.total / config.accumulation_steps).backward()\n",
        description="The gradient is as many times too small as the window has micro-batches; the log is right.",
        symptoms=(
            Symptom("α of full windows", 0.24, 0.26),
            Symptom("α of full windows", 0.24, 0.26, SGD),
        ),
        mistaken_for=("zeroed per micro-batch", "backward after the batch loop"),
        checks=("accumulation",),
        reference="unslothai/unsloth-zoo#1023",
    ),
    LoopFault(
        name="ragged window divided by K",
        story="Every micro-batch weighs 1/K, in the last window of an epoch as well, which holds fewer of them.",
        before=WEIGHT,
        after="                        weight = 1 / config.accumulation_steps\n",
        description="The last step of each epoch is too short, and the reported loss too low.",
        symptoms=(
            Symptom("α of the ragged window", 0.6, 0.85),
            Symptom("reported over true loss", 0.9, 0.97),
        ),
        mistaken_for=("mean of means in the window", "mean of unequal means"),
        checks=("accumulation",),
        reference="Lightning-AI/pytorch-lightning#19987",
    ),
    LoopFault(
        name="mean of means in the window",
        story="Every micro-batch of a window weighs the same, however many scenes it holds.",
        before=WEIGHT,
        after="                        weight = 1 / len(window.micro_batches)\n",
        description="Scenes in a small last micro-batch count more than the others; lengths of gradients look right.",
        symptoms=(
            Symptom("largest weight of a micro-batch", 1.6, 1.73),
            Symptom("cosine", 0.9, 0.98),
        ),
        mistaken_for=("ragged window divided by K", "mean of unequal means"),
        checks=("accumulation",),
        reference="huggingface/trl#2175",
    ),
    LoopFault(
        name="window off by one",
        story="A window ends where i % K == 0 instead of (i + 1) % K == 0, with i counted from 0.",
        before="[Window(micro_batches[first : first + size]) for first in range(0, len(micro_batches), size)]",
        after="[Window(micro_batches[max(i - size, -1) + 1 : i + 1]) for i in range(0, len(micro_batches), size)]",
        description="The first step sees a single micro-batch, and the last ones of the epoch are never seen.",
        symptoms=(
            Symptom("largest weight of a micro-batch", 3.9, 4.1),
            Symptom("weight from outside the window", 0.9, 1.1),
            Symptom("scenes per epoch", 0.84, 0.88),
        ),
        mistaken_for=("tail never stepped", "left-overs leak"),
        checks=("accumulation",),
    ),
    LoopFault(
        name="tail never stepped",
        story="A step is taken only after K micro-batches; what is left at the end of an epoch is zeroed unused.",
        before="                    if finite or scaler.is_enabled():\n",
        after=FULL,
        description="Forwards and backwards run on every scene, but some scenes of each epoch move nothing.",
        symptoms=(
            Symptom("share of micro-batches that reached a step", 0.7, 0.75),
            Symptom("steps per window", 0.6, 0.7),
        ),
        mistaken_for=("left-overs leak", "window off by one"),
        checks=("event counts",),
        reference="tomhosking/torchseq#8",
    ),
    LoopFault(
        name="left-overs leak",
        story="Step and zero_grad stand together under a test for K micro-batches: the gradient of the left-overs "
        "stays where it is until the next epoch.",
        before=ZERO + MICRO_BATCHES + FORWARD + WEIGHT + BACKWARD + ADD + CLIPPING + STEP,
        after=MICRO_BATCHES
        + FORWARD
        + WEIGHT
        + BACKWARD
        + ADD
        + CLIPPING
        + FULL
        + "                        scaler.step(optimizer)\n"
        + "                        optimizer.zero_grad(set_to_none=True)\n",
        description="The first step of each epoch but the first goes partly along a gradient of older weights.",
        symptoms=(
            Symptom("weight from outside the window", 0.2, 0.5),
            Symptom("weight from outside the window", 0.4, 0.8, SGD),
            Symptom("steps per window", 0.6, 0.7),
        ),
        mistaken_for=("tail never stepped", "never zeroed"),
        checks=("gradient coverage", "accumulation"),
    ),
    LoopFault(
        name="zeroed per micro-batch",
        story="zero_grad stands in the loop over micro-batches, as in a loop that does not accumulate.",
        before=ZERO + MICRO_BATCHES,
        after=MICRO_BATCHES + "                        optimizer.zero_grad(set_to_none=True)\n",
        description="Only the last micro-batch of a window reaches its step; losses and counts look right.",
        symptoms=(
            Symptom("share of micro-batches that reached a step", 0.26, 0.28),
            Symptom("α of the first window", 0.2, 0.32),
            Symptom("α of the first window", 0.2, 0.32, SGD),
        ),
        mistaken_for=("backward after the batch loop", "divided twice"),
        checks=("accumulation",),
        reference="pytorch/torchtitan#3575",
    ),
    LoopFault(
        name="zeroed before the step",
        story="zero_grad and step have changed places.",
        before=STEP,
        after="                    if finite or scaler.is_enabled():\n"
        "                        optimizer.zero_grad(set_to_none=True)\n"
        "                        scaler.step(optimizer)\n",
        description="Steps are counted and gradients logged, nothing moves.",
        symptoms=(
            Symptom("share of windows that moved a weight", 0, 0),
            Symptom("share of windows that moved a weight", 0, 0, SGD),
            Symptom("α of full windows", 0, 0),
        ),
        mistaken_for=("step in a branch never taken", "loop tail in a branch never taken"),
        checks=("gradient coverage", "accumulation"),
    ),
    LoopFault(
        name="never zeroed",
        story="zero_grad is missing: accumulation never ends.",
        before=ZERO,
        after="",
        description="Each step goes along the sum of all gradients since the start.",
        symptoms=(
            Symptom("weight from outside the window", 0.8, 1.7),
            Symptom("weight from outside the window", 1.7, 3.0, SGD),
            Symptom("α of full windows", 2.0, 3.0, SGD),
        ),
        mistaken_for=("never divided", "left-overs leak"),
        checks=("one scene", "one batch"),
    ),
    LoopFault(
        name="step per micro-batch",
        story="The step stands in the loop over micro-batches, next to backward, while zero_grad waits for the window.",
        before=BACKWARD + ADD + CLIPPING + STEP,
        after=BACKWARD + "                        scaler.step(optimizer)\n" + ADD + CLIPPING,
        description="As many steps as micro-batches; the first micro-batch of a window enters all of them.",
        symptoms=(
            Symptom("steps per window", 3.6, 3.7),
            Symptom("largest weight of a micro-batch", 3.9, 4.1, SGD),
            Symptom("scheduler ticks per step", 0.26, 0.28),
        ),
        mistaken_for=("never zeroed", "never divided"),
        checks=("accumulation",),
        reference="thunlp/OpenPrompt#106",
    ),
    LoopFault(
        name="loop tail in a branch never taken",
        story="Backward, step and running loss have slipped out of the loop over micro-batches, and so into the branch "
        "above them, meant for the first batch: a test that no longer holds once the loop is over.",
        before=BACKWARD + ADD + CLIPPING + STEP + TICK + "                state.progress.advance(record.loss, record",
        after=ADD
        + '                    first = epoch == 1 and counter.events["forwards"] == 0\n'
        + "                    if first:\n"
        + "                        scaler.scale(weight * loss.total).backward()\n"
        + CLIPPING
        + "                    if first and (finite or scaler.is_enabled()):\n"
        + "                        scaler.step(optimizer)\n"
        + TICK
        + "                state.progress.advance(record.loss if first else 0.0, record",
        description="train 0.000000 in every epoch, and a validation score that never changes; nothing is learned.",
        symptoms=(
            Symptom("backwards per forward", 0, 0),
            Symptom("steps per window", 0, 0),
            Symptom("reported over true loss", 0, 0),
            Symptom("share of epochs that moved the reported loss", 0, 0),
            Symptom("share of epochs that moved the validation", 0, 0, {"validation": 16}),
            Symptom("share of epochs that moved the validation", 0, 0, {"validation": 16, **SGD}),
        ),
        mistaken_for=("divided on the first batch only", "step in a branch never taken", "zeroed before the step"),
        checks=("gradient coverage", "accumulation"),
        reference="the story that the lab is named for",
    ),
    LoopFault(
        name="backward after the batch loop",
        story="Backward has slipped out of the micro-batch loop: many forwards, one backward, on the last micro-batch.",
        before=BACKWARD + ADD,
        after="                    scaler.scale(weight * loss.total).backward()\n"
        "                    meter.add(loss, weight)\n",
        description="Fewer backwards than forwards; the reported loss is a fraction of the real one.",
        symptoms=(
            Symptom("backwards per forward", 0.26, 0.28),
            Symptom("share of micro-batches that reached a step", 0.26, 0.28),
            Symptom("reported over true loss", 0.2, 0.28),
            Symptom("reported over true loss", 0.2, 0.28, SGD),
        ),
        mistaken_for=("zeroed per micro-batch", "last over n", "summed inside the step branch", "divided twice"),
        checks=("accumulation", "event counts"),
        reference="the story that the lab is named for",
    ),
    LoopFault(
        name="step in a branch never taken",
        story="The step hangs under a condition that no window meets: no forwards yet, tested after the forwards.",
        before="                    if finite or scaler.is_enabled():\n",
        after='                    if finite and counter.events["forwards"] == 0:\n',
        description="Forwards and backwards run, no step is ever applied, the loss is constant.",
        symptoms=(
            Symptom("steps per window", 0, 0),
            Symptom("share of epochs that moved the validation", 0, 0, {"validation": 16}),
        ),
        mistaken_for=("zeroed before the step", "loop tail in a branch never taken"),
        checks=("whole set", "event counts"),
        reference="the story that the lab is named for",
    ),
    LoopFault(
        name="accumulated in bf16",
        story="Gradients are held in bfloat16 between micro-batches to save memory, though it has 8 bits of precision.",
        before=BACKWARD,
        after=BACKWARD + "                        for parameter in model.parameters():\n"
        "                            parameter.grad.copy_(parameter.grad.bfloat16())\n",
        description="The more micro-batches a window has, the less true is its gradient; no curve shows it.",
        symptoms=(
            Symptom("relative error of the gradient", 0.001, 0.01),
            Symptom(
                "relative error of the gradient", 0.005, 0.05, {"micro_batch": 2, "accumulation_steps": 42, "epochs": 1}
            ),
        ),
        mistaken_for=("batch statistics per micro-batch",),
        checks=("accumulation",),
        reference="deepspeedai/DeepSpeed#2768",
    ),
    Fault(
        name="batch statistics per micro-batch",
        story="Maps are standardised by the statistics of their micro-batch: what the loop adds up is right, and still "
        "not the gradient of one large batch.",
        module="model.network",
        before="nn.LayerNorm(beams, elementwise_affine=False)",
        after="nn.BatchNorm1d(beams, affine=False)",
        description="Accumulation over four micro-batches trains otherwise than one batch four times as large.",
        symptoms=(
            Symptom("relative error against one batch", 0.3, 1.5),
            Symptom("relative error against one batch", 0.3, 1.5, SGD),
        ),
        mistaken_for=("normalised over the batch", "accumulated in bf16"),
        checks=("accumulation",),
        reference="pytorch/pytorch#46516",
    ),
)
