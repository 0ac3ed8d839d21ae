"""Faults of what is reported: training may be sound, and the number that is told is not."""

from __future__ import annotations

from rislab.faults.fault import Fault, LoopFault, Symptom

# One scene whose loss is not a number, so that its window is skipped.
OVERFLOW = {"poison": "overflow"}
SGD = {"optimiser": "sgd"}

REPORTED = (
    Fault(
        name="identity miscounted",
        story="The identity is scaled to trace 1 instead of N in the reference line.",
        module="data.covariance",
        before="(1 - batch.config.elements / energy)",
        after="(1 - 1 / energy)",
        description="The reference line lies too high, so that learning nothing looks like progress.",
        symptoms=(Symptom("identity line over the identity's score", 1.03, 1.08),),
        mistaken_for=("constant unweighted",),
        checks=("identity",),
    ),
    Fault(
        name="constant unweighted",
        story="The constant predictor is scaled like a sum instead of a mean over the scenes.",
        module="data.covariance",
        before="(weight[:, None, None] * truth).sum(0) / weight.sum()",
        after="(weight[:, None, None] * truth).sum(0) / weight.mean()",
        description="The constant line lies far above 1, and anything beats it.",
        symptoms=(Symptom("line of the best constant", 100, 1000),),
        mistaken_for=("identity miscounted",),
        checks=("constant",),
    ),
    LoopFault(
        name="scored against itself",
        story="The evaluation compares the truth with the truth.",
        before="                pred = nmse(predicted, truth)\n",
        after="                pred = nmse(truth, truth)\n",
        description="Validation is 0 from the first epoch on.",
        symptoms=(
            Symptom("score of zeros", 0, 0),
            Symptom("share of epochs that moved the validation", 0, 0, {"validation": 16}),
        ),
        mistaken_for=("loop tail in a branch never taken",),
        checks=("untrained", "zero matrix"),
    ),
    Fault(
        name="last over n",
        story="The running loss keeps only the last window of the epoch, and is divided by all samples.",
        module="training.state",
        before="        self.loss_sum += loss * samples\n",
        after="        self.loss_sum = loss * samples\n",
        description="The reported loss is a fraction of the real one.",
        symptoms=(
            Symptom("reported over true loss", 0.2, 0.28),
            Symptom("reported over true loss", 0.2, 0.28, SGD),
        ),
        mistaken_for=("backward after the batch loop", "summed inside the step branch", "logged after the division"),
        checks=("reported loss",),
        reference="the story that the lab is named for",
    ),
    LoopFault(
        name="logged after the division",
        story="The loss is logged after it was divided by the accumulation steps, and nobody multiplies it back.",
        before="                        meter.add(loss, weight)\n",
        after="                        meter.add(loss, weight / config.accumulation_steps)\n",
        description="The reported loss is a fraction of the real one; training is sound.",
        symptoms=(
            Symptom("reported over true loss", 0.24, 0.26),
            Symptom("relative error of a window's reported loss", -0.76, -0.74),
        ),
        mistaken_for=("last over n", "summed inside the step branch", "backward after the batch loop"),
        checks=("reported loss",),
        reference="Lightning-AI/pytorch-lightning#2569",
    ),
    Fault(
        name="running loss forgotten",
        story="A run resumed in mid-epoch forgets the losses of the windows before it.",
        module="training.state",
        before='        self.progress = TrainProgress(**plain["position"])\n',
        after='        self.progress = TrainProgress(**{**plain["position"], "loss_sum": 0.0, "loss_samples": 0})\n',
        description="The first epoch after a restart reports the loss of its tail alone.",
        symptoms=(Symptom("loss of a resumed epoch over that of an unbroken one", 0.98, 0.998),),
        mistaken_for=("only the last micro-batch", "mean of unequal means"),
        checks=("resume",),
    ),
    LoopFault(
        name="only the last micro-batch",
        story="The running loss is taken after the loop over micro-batches, and so from the last of them.",
        before="                        meter.add(loss, weight)\n",
        after="                    meter.add(loss, 1.0)\n",
        description="A noisier curve of the right height: most micro-batches are trained on, and not reported.",
        symptoms=(
            Symptom("relative error of a window's reported loss", -0.2, -0.02),
            Symptom("windows reported finite whose loss was not", 2, 2, OVERFLOW),
        ),
        mistaken_for=("NaN written as 0", "mean of unequal means"),
        checks=("reported loss",),
    ),
    Fault(
        name="sum of means over the set's size",
        story="Means over windows are summed, and the sum is divided by the number of scenes instead of windows.",
        module="training.state",
        before="        self.loss_sum += loss * samples\n",
        after="        self.loss_sum += loss\n",
        description="The reported loss is as many times too small as a window holds scenes on average.",
        symptoms=(Symptom("reported over true loss", 0.03, 0.045),),
        mistaken_for=("last over n", "logged after the division"),
        checks=("reported loss",),
    ),
    Fault(
        name="mean of unequal means",
        story="The epoch's loss is the plain mean over windows, though the last one holds fewer scenes.",
        module="training.state",
        before="        self.loss_sum += loss * samples\n        self.loss_samples += samples\n",
        after="        self.loss_sum += loss\n        self.loss_samples += 1\n",
        description="Scenes in the last window count more than others; it shows when that window is small.",
        symptoms=(Symptom("reported over true loss of the last epoch", 0.8, 0.95, {"scenes": 66, "warmup": 0}),),
        mistaken_for=("mean of means in the window", "ragged window divided by K"),
        checks=("reported loss",),
        reference="Lightning-AI/pytorch-lightning#2924",
    ),
    Fault(
        name="NaN replaced by the running mean",
        story="A loss that is not finite is replaced by the mean of those before it, to keep the curve readable.",
        module="training.state",
        before="        self.loss_sum += loss * samples\n",
        after="        loss = loss if math.isfinite(loss) else self.loss_sum / max(self.loss_samples, 1)\n"
        "        self.loss_sum += loss * samples\n",
        description="A smooth curve, under which windows are lost to NaN.",
        symptoms=(
            Symptom("epochs reported finite though a window was not", 2, 2, OVERFLOW),
            Symptom("reported over true loss of the finite windows", 0.99, 1.01, OVERFLOW),
        ),
        mistaken_for=("summed only when a step is taken", "NaN written as 0"),
        reference="huggingface/transformers#13619",
    ),
    LoopFault(
        name="NaN written as 0",
        story="Records are cleaned of NaN before they are written, so that the chart can draw them.",
        before="torch.stack(self._losses).sum(dim=0).tolist()",
        after="torch.stack(self._losses).sum(dim=0).nan_to_num(0.0).tolist()",
        description="A window that was lost looks like one that was perfect.",
        symptoms=(
            Symptom("windows reported finite whose loss was not", 2, 2, OVERFLOW),
            Symptom("reported over true loss of the finite windows", 0.74, 0.78, OVERFLOW),
        ),
        mistaken_for=("NaN replaced by the running mean", "summed only when a step is taken"),
        reference="lanpa/tensorboardX#668",
    ),
    LoopFault(
        name="NaN dropped from the record",
        story="Records that are not finite are not handed on, since no chart can draw them.",
        before="                yield record\n",
        after="                if math.isfinite(record.loss):\n                    yield record\n",
        description="The curve joins its neighbours where windows are missing.",
        symptoms=(
            Symptom("windows per epoch", 0.6, 0.7, OVERFLOW),
            Symptom("scenes per epoch", 0.74, 0.78, OVERFLOW),
        ),
        mistaken_for=("tail never stepped", "window off by one"),
        reference="wandb/wandb#2202",
    ),
    LoopFault(
        name="rounded to four digits",
        story="The loss is rounded where it is recorded, not where it is shown.",
        before="        train=progress.loss_sum / progress.loss_samples,\n",
        after="        train=round(progress.loss_sum / progress.loss_samples, 4),\n",
        description="A loss below 0.00005 reads exactly 0, and slow progress is a flat line.",
        symptoms=(
            Symptom(
                "share of epochs that moved the reported loss", 0, 0, {**SGD, "lr_head": 1e-5, "lr_backbone": 1e-5}
            ),
        ),
        mistaken_for=("step in a branch never taken", "zeroed before the step"),
        checks=("reported loss",),
        reference="huggingface/transformers#38032",
    ),
    Fault(
        name="summed only when a step is taken",
        story="A skipped window adds nothing to the running loss, but its scenes are counted.",
        module="training.state",
        before="        self.loss_sum += loss * samples\n",
        after="        if applied:\n            self.loss_sum += loss * samples\n",
        description="The more steps are skipped, the better the loss looks.",
        symptoms=(
            Symptom("epochs reported finite though a window was not", 2, 2, OVERFLOW),
            Symptom("reported over true loss of the finite windows", 0.74, 0.78, OVERFLOW),
        ),
        mistaken_for=("NaN replaced by the running mean", "NaN written as 0"),
    ),
    LoopFault(
        name="summed inside the step branch",
        story="The running loss stands under the test for the end of the window, next to the step: one micro-batch of "
        "each window is summed, and divided by the scenes of all.",
        before="                        meter.add(loss, weight)\n",
        after="                        if indices is window.micro_batches[-1]:\n"
        "                            meter.add(loss, weight)\n",
        description="The reported loss is a fraction of the real one; training is sound.",
        symptoms=(
            Symptom("reported over true loss", 0.2, 0.28),
            Symptom("windows reported finite whose loss was not", 2, 2, OVERFLOW),
        ),
        mistaken_for=("last over n", "logged after the division", "backward after the batch loop"),
        checks=("reported loss",),
    ),
)
