"""Faults of optimiser, schedule, mode and resuming."""

from __future__ import annotations

from rislab.faults.accumulation import STEP
from rislab.faults.fault import Fault, LoopFault, Symptom

TICK = "                        state.scheduler.step()\n"
# What stands between two lines that an edit changes together.
COUNT = """\
                    scaler.update()
                    applied = counter.events["steps_applied"] > stepped
                    if applied:
"""
REPORT = """\
                        state.update_average()
                record = meter.record(epoch, phase, window, applied)
                state.progress.advance(record.loss, record.samples, applied)
                yield record
"""

OPTIMISER = (
    Fault(
        name="detached backbone",
        story="A detach() left over from debugging cuts the backbone off.",
        module="model.network",
        before="return self.head(self.backbone(power))",
        after="return self.head(self.backbone(power).detach())",
        description="The loss falls, but the backbone keeps its random weights.",
        symptoms=(Symptom("share of tensors that never moved", 0.4, 0.6),),
        mistaken_for=("head frozen", "network never sees H"),
        checks=("gradient coverage",),
    ),
    Fault(
        name="normalised over the batch",
        story="Maps are centred on the mean over the batch instead of each scene's own.",
        module="model.network",
        before="self.standardise(torch.log(power + 1e-4))",
        after="torch.log(power + 1e-4) - torch.log(power + 1e-4).mean(dim=0)",
        description="A scene's answer depends on which others share its batch.",
        symptoms=(Symptom("relative error against one batch", 0.05, 0.5),),
        mistaken_for=("batch statistics per micro-batch", "dropout in training only"),
        checks=("batch independence",),
    ),
    Fault(
        name="loss detached",
        story="The loss is detached before it is handed on, and rebuilt as a fresh leaf to silence the error.",
        module="model.losses",
        before="    return Loss(total.mean(), terms,",
        after="    return Loss(total.mean().detach().requires_grad_(), terms,",
        description="No gradient reaches any weight; the loss is constant.",
        symptoms=(
            Symptom("backwards per forward", 0.0, 0.01),
            Symptom("share of windows that moved a weight", 0.0, 0.01),
        ),
        mistaken_for=("optimiser holds stale parameters", "main loss weight 0", "step in a branch never taken"),
        checks=("gradient coverage", "one scene", "one batch", "whole set"),
    ),
    Fault(
        name="warm-up counted in samples",
        story="The length of the warm-up is declared in samples, the ticks count steps: the rate stays near 0.",
        module="training.state",
        before="        warm = min(1.0, (tick + 1) / config.warmup) if config.warmup > 0 else 1.0\n",
        after="        warm = min(1.0, (tick + 1) / (config.warmup * 1_000_000)) if config.warmup > 0 else 1.0\n",
        description="Steps are applied, gradients flow, nothing moves.",
        symptoms=(Symptom("smallest relative movement in a window", 0.0, 1e-7),),
        mistaken_for=("learning rate 0 at the first step", "schedule stepped per epoch"),
        checks=("one scene", "one batch", "whole set"),
    ),
    LoopFault(
        name="scheduler per micro-batch",
        story="The schedule is ticked for each micro-batch instead of each applied step.",
        before="                        meter.add(loss, weight)\n",
        after="                        meter.add(loss, weight)\n                        state.scheduler.step()\n",
        description="The learning rate runs out before the training does.",
        symptoms=(Symptom("scheduler ticks per step", 4.5, 4.8),),
        mistaken_for=("schedule ends early", "schedule runs over skipped steps"),
        checks=("event counts",),
    ),
    Fault(
        name="averaged weights not restored",
        story="A checkpoint brings back the weights but not their running average.",
        module="training.state",
        before='            self.ema.load_state_dict(plain["ema"])\n',
        after="            pass\n",
        description="After a restart the averaged score falls back to that of the first weights.",
        symptoms=(Symptom("share of the average that a checkpoint loses", 0.5, 1.0),),
        mistaken_for=("optimiser not restored", "validation of the averaged weights only"),
        checks=("resume",),
    ),
    Fault(
        name="random state not restored",
        story="A checkpoint brings back everything but the state of the random generators.",
        module="training.state",
        before='        self.randomness.load_plain(plain["randomness"])\n',
        after="",
        description="Dropout differs after a restart, so that no run can be repeated.",
        symptoms=(Symptom("share of the random state that a checkpoint loses", 0.1, 1.0),),
        mistaken_for=("optimiser not restored",),
        checks=("resume",),
    ),
    Fault(
        name="dropout in training only",
        story="Heavy dropout makes the training loss another quantity than the evaluation's.",
        module="model.network",
        before="        return torch.sin(self.linear(self.standardise(torch.log(power + 1e-4))))\n",
        after="        hidden = torch.sin(self.linear(self.standardise(torch.log(power + 1e-4))))\n"
        "        return nn.functional.dropout(hidden, 0.5, self.training)\n",
        description="Train and eval differ on the same samples with the same weights.",
        symptoms=(Symptom("relative error against one batch", 0.6, 3.0),),
        mistaken_for=("normalised over the batch", "batch statistics per micro-batch"),
        checks=("train against eval",),
    ),
    Fault(
        name="optimiser not restored",
        story="A checkpoint brings back the weights but not the optimiser's moments.",
        module="training.state",
        before='        self.optimizer.load_state_dict(plain["optimizer"])\n',
        after="",
        description="After each restart the loss jumps, and no two runs agree.",
        symptoms=(Symptom("share of the optimiser's state that a checkpoint loses", 0.99, 1.0),),
        mistaken_for=("random state not restored", "averaged weights not restored"),
        checks=("resume",),
    ),
    Fault(
        name="learning rate 0 at the first step",
        story="The warm-up is tick / length with ticks from 0, so that the first step has no length.",
        module="training.state",
        before="        warm = min(1.0, (tick + 1) / config.warmup) if config.warmup > 0 else 1.0\n",
        after="        warm = min(1.0, tick / config.warmup) if config.warmup > 0 else 1.0\n",
        description="The first step moves nothing; in a run with one step an epoch, that is a whole epoch.",
        symptoms=(
            Symptom("share of windows that moved a weight", 0.8, 0.86),
            Symptom("share of windows that moved a weight", 0.0, 0.01, {"accumulation_steps": 11, "epochs": 1}),
        ),
        mistaken_for=("scheduler before the optimiser", "warm-up counted in samples"),
        reference="the story that the lab is named for",
    ),
    LoopFault(
        name="scheduler before the optimiser",
        story="The schedule is ticked before the step, as was right before PyTorch 1.1.",
        before=STEP + COUNT + TICK,
        after="                    state.scheduler.step()\n" + STEP + COUNT,
        description="The first value of the schedule is never used; the log shows a rate that was not the step's.",
        symptoms=(Symptom("rate at the first step over the declared", 1.7, 1.9),),
        mistaken_for=("learning rate 0 at the first step", "scheduler per micro-batch"),
    ),
    LoopFault(
        name="schedule stepped per epoch",
        story="The schedule is ticked once an epoch, while its length is counted in steps.",
        before=TICK + REPORT,
        after=REPORT + "            state.scheduler.step()\n",
        description="The warm-up takes as many epochs as it should take steps, and the rate never comes down.",
        symptoms=(Symptom("scheduler ticks per step", 0.3, 0.36),),
        mistaken_for=("warm-up counted in samples", "backward after the batch loop"),
        checks=("event counts",),
        reference="the story that the lab is named for",
    ),
    Fault(
        name="schedule ends early",
        story="The length of the schedule is that of one epoch: its number of epochs was forgotten.",
        module="training.state",
        before="_learning_rate_factor(config, config.epochs * windows)",
        after="_learning_rate_factor(config, windows)",
        description="After the first epoch the rate lies at its end, and the loss crawls.",
        symptoms=(Symptom("steps at the lowest rate", 3.5, 4.5, {"warmup": 0}),),
        mistaken_for=("scheduler per micro-batch", "schedule runs over skipped steps"),
    ),
    Fault(
        name="optimiser holds stale parameters",
        story="The optimiser is built on a copy of the model that is not the one that trains.",
        module="training.state",
        before="        groups = parameter_groups(model)\n",
        after="        groups = parameter_groups(AveragedModel(model).module)\n",
        description="Backward fills gradients, steps are counted, no weight ever moves.",
        symptoms=(
            Symptom("share of windows that moved a weight", 0.0, 0.01),
            Symptom("share of tensors that never moved", 0.99, 1.0),
        ),
        mistaken_for=("zeroed before the step", "loss detached", "never zeroed"),
        reference="huggingface/accelerate#2665",
    ),
    Fault(
        name="head frozen",
        story="The head was frozen to train the backbone first, and never thawed.",
        module="model.network",
        before="        nn.init.zeros_(self.linear.bias)\n",
        after="        nn.init.zeros_(self.linear.bias)\n        self.requires_grad_(False)\n",
        description="The loss falls a little: the backbone learns to please a random head.",
        symptoms=(Symptom("share of tensors that never moved", 0.4, 0.6),),
        mistaken_for=("detached backbone",),
    ),
    Fault(
        name="main loss weight 0",
        story="The weight of the NMSE was set to 0 to look at another term, and left there.",
        module="model.curriculum",
        before='NO_CURRICULUM = LossWeights("no-curriculum")\n',
        after='NO_CURRICULUM = LossWeights("no-curriculum", nmse=0.0)\n',
        description="The loss is 0.000000 from the first step on, and nothing moves.",
        symptoms=(
            Symptom("share of windows that moved a weight", 0.0, 0.01),
            Symptom("share of epochs that moved the reported loss", 0.0, 0.01),
        ),
        mistaken_for=("loss detached", "loop tail in a branch never taken"),
    ),
    LoopFault(
        name="step gate too strict",
        story="A step is only taken if the gradients of backbone and head are both above a bound, so that none is "
        "wasted; the backbone's never is.",
        before=STEP,
        after="                    groups = optimizer.param_groups\n"
        '                    norms = [get_total_norm([p.grad for p in group["params"]]) for group in groups]\n'
        "                    if min(norms) > 0.1 and (finite or scaler.is_enabled()):\n"
        "                        scaler.step(optimizer)\n",
        description="Forwards and backwards run, gradients are healthy, and no step is applied.",
        symptoms=(
            Symptom("skipped steps", 5.5, 6.5),
            Symptom("steps per window", 0.0, 0.01),
        ),
        mistaken_for=("step in a branch never taken", "infinity in every step", "singular vectors differentiated"),
        reference="the story that the lab is named for",
    ),
    LoopFault(
        name="eval never undone",
        story="A look at the score before each epoch turns the model to eval mode in passing; nothing turns it back.",
        before="            model.train()\n            for window",
        after="            model.train()\n            began_with = evaluate_in_mode(model.eval(), data)\n"
        "            for window",
        description="A network with dropout or batch statistics trains without them; one with neither shows nothing.",
        symptoms=(Symptom("training-mode forwards per micro-batch", 0.0, 0.01),),
        mistaken_for=("dropout in training only",),
    ),
    LoopFault(
        name="validation of the averaged weights only",
        story="Validation scores the running average of the weights in place of the weights.",
        before="else evaluate(state.model, scored, precision=config.precision)",
        after="else evaluate(state.ema.module if state.ema else state.model, scored, precision=config.precision)",
        description="Validation is smooth and lags behind the weights; with a slow average it hardly moves at all.",
        symptoms=(Symptom("validation over that of the averaged weights", 0.9999, 1.0001, {"validation": 16}),),
        mistaken_for=("learning rate 0 at the first step", "warm-up counted in samples"),
        reference="the story that the lab is named for",
    ),
)
