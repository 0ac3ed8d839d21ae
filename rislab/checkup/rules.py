"""The rules of the checkup: what each compares, why it matters, how its faults are mended.

The functions that judge stand in `step_rules` (listed in diagnosis.RULE_FUNCTIONS), in `observers` (listed in
diagnosis.standard_observers()) and in `probes` (listed in probes/suite.py, PROBES).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from rislab.checkup.rule import Rule

DOCS = "https://docs.pytorch.org/docs/stable/"
ACCUMULATION = f"{DOCS}notes/amp_examples.html#gradient-accumulation"
STEP = f"{DOCS}optim.html#taking-an-optimization-step"
LEARNING_RATE = f"{DOCS}optim.html#how-to-adjust-learning-rate"


class Code(StrEnum):
    """The codes of the rules in words. C rules watch a loop; P rules try things out on copies, as probe() does."""

    GRADIENT_SCALE = "C1"
    DIRECTION = "C2"
    WINDOW_SIZE = "C3"
    WEIGHTS = "C4"
    NAN = "C5"
    LEARNING_RATE = "C6"
    CLIPPING = "C7"
    ZEROING = "C8"
    LOSSES = "C9"
    STEPS = "C10"
    SCHEDULER = "C11"
    MODE = "C12"
    PRECISION = "C13"
    REPORT = "C14"
    ARGUMENTS = "C15"
    DRIFT = "C16"
    NAN_SURVIVES = "P1"
    LOSS_MINIMUM = "P2"
    INDEPENDENCE = "P3"
    INPUTS = "P4"
    ONE_BATCH = "P5"
    EVALUATION = "P6"
    RESUME = "P7"
    HALF_PRECISION = "P8"
    DUPLICATES = "P9"
    EQUIVALENCE = "P10"
    TWICE = "P11"


_OF_THE_LOOP = (
    Rule(
        Code.GRADIENT_SCALE.value,
        "gradient scale",
        what="The gradient g that the optimiser got is compared with the true one r of its window: α = ⟨g,r⟩/⟨r,r⟩.",
        why="α is 1 if each micro-batch counts with its share of the window. α = K: the losses were never divided, and "
        "the learning rate is K times the one that was chosen; α = 1/K: they were divided twice.",
        fix="multiply each micro-batch loss by its share of the window before backward, once",
        needs="a window whose true gradient could be taken; K is inferred from the steps if it is not declared",
        faults=("never divided", "divided on the first batch only", "divided twice", "ragged window divided by K"),
        others=("gradient scale", "a term not divided", "a sum beside a mean", "not judged"),
        reference=ACCUMULATION,
    ),
    Rule(
        Code.DIRECTION.value,
        "gradient direction",
        what="The direction of the gradient that the optimiser got is compared with that of its window: their cosine.",
        why="The cosine is 1 up to rounding (1e-5 in float32). Below 1, micro-batches count unequally, the gradient of "
        "another step is in it, or digits were lost; the weights then move somewhere else than the loss says.",
        fix="weigh each micro-batch by its samples, zero the gradients once a window, and keep them in float32",
        needs="a window whose true gradient could be taken, and whether samples or batches are to count equally",
        faults=("mean of means in the window", "accumulated in bf16", "never zeroed", "left-overs leak",
                "batch statistics per micro-batch"),
        others=("gradient direction", "gradient changed by hand", "backward is not the derivative"),
        reference=ACCUMULATION,
    ),
    Rule(
        Code.WINDOW_SIZE.value,
        "micro-batches in a window",
        what="The number of micro-batches before each step is compared with K.",
        why="Only the last window of an epoch may be smaller. A larger one holds the rest of the epoch before; a step "
        "without a new loss repeats the last one; a step for each micro-batch means that nothing is accumulated.",
        fix="step where (i + 1) % K == 0 and at the end of an epoch, with i from 0",
        needs="two steps; K is inferred from the steps if it is not declared",
        faults=("stepped twice", "step per micro-batch", "window off by one", "left-overs leak"),
        others=("window size",),
        reference=ACCUMULATION,
    ),
    Rule(
        Code.WEIGHTS.value,
        "weights that move",
        what="The trainable tensors of the network are compared with those that the optimiser holds, and with their "
        "values at the end.",
        why="A tensor that no optimiser holds, or that steps leave where it was, is not trained. In bfloat16 a step of "
        "less than 1/256 of a weight is lost. A tensor that no step can ever move, or that a step moves though it is "
        "frozen, is a fault; one that a loop leaves out, or loads without its optimiser, may be meant.",
        fix="make the optimiser after the model has its last parameters, and keep the weights in float32",
        needs="one step at a learning rate above 0",
        severity="warning",
        faults=("optimiser holds stale parameters", "weights kept in bf16", "detached backbone", "main loss weight 0",
                "loss detached"),
        others=("not in the optimiser", "tensors that no optimiser holds", "optimiser holds only frozen tensors",
                "optimiser made anew", "frozen tensors", "gradient of rounding alone", "gradients of 0",
                "loads its own weights", "kept states are one", "average never moves",
                "average moves away from the weights", "frozen weights move", "weights differ between ranks",
                "optimiser state lost at resume", "average of the last weights alone", "nothing was loaded",
                "requires_grad of a module", "requires_grad misspelt", "one layer in all places",
                "tied weights come apart", "tensors of one storage", "units that stay equal", "layer of dead units",
                "weights set back", "weights made in the forward",
                "perturbation never undone", "averaged weights stay",
                "average begins elsewhere"),
        reference=f"{DOCS}optim.html#constructing-it",
    ),
    Rule(
        Code.NAN.value,
        "NaN and infinity",
        what="Losses, true gradients and the gradients that were stepped on are searched for NaN and infinity.",
        why="One step on NaN makes all weights NaN. A gradient in which NaN was replaced is the gradient of nothing; a "
        "loop all of whose steps are skipped trains nothing.",
        fix="skip the step and record it; under a scaler, call scaler.step(optimizer)",
        needs="one loss",
        faults=("scaler bypassed", "NaN made 0 in the gradient", "NaN guard in the loop", "infinity in every step"),
        others=("NaN reached a step", "losses that are no numbers"),
        reference=f"{DOCS}amp.html#gradient-scaling",
    ),
    Rule(
        Code.LEARNING_RATE.value,
        "learning rates",
        what="The learning rates of all steps that were taken are compared with each other and with 0.",
        why="A step at a rate of 0 does nothing; steps at less than 1/1000 of the largest rate do little.",
        fix="begin the warm-up above 0, and count the lengths of the schedule in what it ticks in",
        needs="one step that was taken",
        faults=("learning rate 0 at the first step", "schedule ends early"),
        others=("schedule ends in a rate of 0", "warm-up never ends", "rate below the one asked for",
                "weight decay in place of the rate", "rate that no group has", "one rate for all groups"),
        reference=LEARNING_RATE,
    ),
    Rule(
        Code.CLIPPING.value,
        "clipping",
        what="The norm of the gradient that the optimiser got is compared with the declared limit, and its direction "
        "with that of the window.",
        why="Clipping once a window, on unscaled gradients, keeps the direction. Clipped after each backward, the "
        "direction is another; clipped before unscaling, the step is shorter by the loss scale.",
        fix="clip once a window, between scaler.unscale_(optimizer) and the step",
        needs="a window whose true gradient could be taken; the limit is inferred if it is not declared",
        faults=("clipped before unscaling", "clipped per micro-batch"),
        others=("never clipped", "clipping changes nothing", "clipping assumed", "clipped by an infinite norm"),
        reference=f"{DOCS}notes/amp_examples.html#gradient-clipping",
    ),
    Rule(
        Code.ZEROING.value,
        "zeroing",
        what="How often each micro-batch counts in its step is read off the gradient: 1 its exact share, 0 lost.",
        why="Gradients that are zeroed between a backward and its step are computed for nothing: the step sees only "
        "the last micro-batch, or no data at all.",
        fix="zero the gradients once a window: after the step, or before the first backward",
        needs="a window whose true gradient could be taken",
        faults=("zeroed before the step", "zeroed per micro-batch", "tail never stepped"),
        others=("gradients of another loss", "losses counted again"),
        reference=STEP,
    ),
    Rule(
        Code.LOSSES.value,
        "losses that reach a step",
        what="Training losses are counted, those with a backward among them, and the steps that follow.",
        why="A loss without a backward, or one that depends on none of the weights, trains nothing.",
        fix="indent loss, backward and step into the loop over micro-batches, and do not detach the loss",
        needs="a forward in training, or a step",
        faults=("loss detached", "loop tail in a branch never taken", "backward after the batch loop",
                "exception swallowed into 0"),
        others=("nothing was trained", "a term of the loss trains nothing", "stop-gradient missing",
                "advantage not detached", "steps without a forward", "forwards that reached no step",
                "closure returns a running sum", "batches of one class", "the same random numbers again",
                "ratio always 1", "reference is the trained network", "gradient penalty per position",
                "sampler without set_epoch", "samplers differ between ranks", "not judged", "always the first batch",
                "loader without a batch", "samples that are never drawn", "classes that training never had",
                "straight-through without detach", "loss is maximised", "sums that keep one of their terms",
                "one buffer in all samples", "log-probability of another sample", "entropy is lowered",
                "sample without a gradient", "statement that does nothing", "loss that nothing uses"),
        reference=STEP,
    ),
    Rule(
        Code.STEPS.value,
        "backwards that reach a step",
        what="Backwards are counted, and those after which no step came.",
        why="What is left at the end of an epoch without a step is lost, or leaks into the next epoch.",
        fix="take a step for what is left at the end of an epoch",
        needs="one backward",
        faults=("step in a branch never taken", "tail never stepped"),
        others=("updated by hand", "gradients by hand", "weights never updated", "epochs without a step"),
        reference=STEP,
    ),
    Rule(
        Code.SCHEDULER.value,
        "ticks of the scheduler",
        what="The ticks of the scheduler are compared with the steps that the optimiser took.",
        why="A schedule that ticks at each micro-batch ends K times too early; one that ticks once an epoch hardly "
        "begins; one that ticks before the first step never uses its first rate.",
        fix="step the scheduler once after each step of the optimiser that was really taken",
        needs="the scheduler; its interval is inferred if it is not declared",
        faults=("scheduler per micro-batch", "scheduler before the optimiser", "schedule runs over skipped steps",
                "schedule stepped per epoch"),
        others=("scheduler never stepped", "scheduler stepped instead of the optimiser", "schedule runs past its end",
                "epoch schedule stepped per batch", "schedule hardly begins", "scheduler of another optimiser",
                "plateau looked for the other way", "loss given as the epoch", "scheduler made anew"),
        reference=LEARNING_RATE,
    ),
    Rule(
        Code.MODE.value,
        "training mode",
        what="Training losses in evaluation mode are counted, evaluations in training mode, and statistics that move.",
        why="Dropout drops, and BatchNorm learns statistics, in training mode alone: in another one, another network "
        "is trained, or evaluated. Statistics that never moved are a fault; noise of a teacher may be meant.",
        fix="call model.train() at the start of each epoch, and model.eval() before an evaluation",
        needs="one loss",
        faults=("eval never undone",),
        others=("evaluated in training mode", "frozen network in training mode", "statistics of frozen layers move",
                "running statistics never moved", "average without its statistics", "momentum of the statistics"),
        reference=f"{DOCS}notes/autograd.html#evaluation-mode-nn-module-eval",
    ),
    Rule(
        Code.PRECISION.value,
        "number format and scaler",
        what="The number format of the losses is compared with the gradient scaler, if there is one, and its scale.",
        why="In float16, gradients below 6e-8 are 0 unless the loss is scaled; a scaled gradient that is not unscaled "
        "is longer by the loss scale.",
        fix="run forward and loss under autocast, and step through the scaler",
        needs="one loss, and the scaler if there is one",
        faults=("scaler bypassed", "scaler only where CUDA is"),
        others=("scaler without autocast", "a term not scaled", "scaler made anew"),
        reference=f"{DOCS}notes/amp_examples.html#typical-mixed-precision-training",
    ),
    Rule(
        Code.REPORT.value,
        "reported loss",
        what="Each reported loss is compared with the mean of the raw losses of its epoch; a printed loss or score of "
        "an evaluation with what the batches of that evaluation gave.",
        why="A loss that is K times too small, that is the last one, or in which NaN was replaced looks like a good "
        "training, whatever the network does.",
        fix="add up the raw losses, each times its samples, and divide by the samples of the epoch",
        needs="the reported losses, one an epoch",
        faults=("NaN replaced by the running mean", "rounded to four digits", "mean of unequal means", "last over n",
                "only the last micro-batch", "logged after the division", "sum of means over the set's size",
                "loop tail in a branch never taken", "scored against itself"),
        others=("nothing reported", "another loss reported", "fewer losses than epochs", "more losses than epochs",
                "answers of the evaluation unread",
                "the same loss again", "sum never set back", "first over n",
                "only the last batch", "divided by another number", "not judged"),
    ),
    Rule(
        Code.ARGUMENTS.value,
        "what a loss is given",
        what="The shapes and ranges of what torch's losses are called with are compared with what they take; so are "
        "target tokens with the tokens that the network saw.",
        why="A loss computes a number from any arguments: all pairs of predictions and targets where shapes broadcast, "
        "the softmax of a softmax where probabilities are taken for logits. What contradicts the documentation of the "
        "loss, or makes it always 0, is a fault; bounded logits of many classes, or learned labels, may be meant.",
        fix="give the loss what its documentation says, in one shape",
        needs="a call of a loss of torch, with a gradient",
        severity="warning",
        others=("arguments that broadcast", "targets of other samples", "probabilities where logits belong",
                "probabilities where their logarithm belongs", "logits where log-probabilities belong",
                "log-probabilities where probabilities belong", "logits that cannot be negative",
                "targets outside of 0 to 1", "targets of several classes", "padding counts in the loss",
                "mask after the mean",
                "labels shifted twice", "the target is visible in the input", "labels never shifted",
                "loss of one class", "targets other than 1 and -1", "input and target exchanged",
                "compared with itself", "rates where their logarithm belongs", "normalised along another axis",
                "weights grow with the counts", "answers change with padding", "backward direction after one input",
                "attention to padding alone", "mask over the queries", "axes exchanged by a view",
                "targets that no answer reaches",
                "layers without an activation", "the blank among the targets", "logit of the target is constant",
                "targets of one class", "mask that leaves out nothing", "mask never read",
                "end of episodes never read"),
        reference=f"{DOCS}nn.html#loss-functions",
    ),
    Rule(
        Code.DRIFT.value,
        "inputs that drift",
        what="Inputs are compared with what the same memory held before, and those of evaluation with training's.",
        why="Data that are scaled or shifted in place each time they are read move away from epoch to epoch.",
        fix="change a copy of the data",
        needs="inputs that come again from the same memory, or a dataset of tensors or arrays, read by a DataLoader",
        severity="warning",
        others=("inputs changed in place", "inputs of evaluation in another range", "random inputs of evaluation"),
    ),
)  # fmt: skip

_OF_THE_PROBES = (
    Rule(
        Code.NAN_SURVIVES.value,
        "infinity in one micro-batch",
        what="The loop is run on a copy, with infinity in one micro-batch.",
        why="A loop that then reports a finite loss hides NaN; weights that are NaN afterwards can never be mended.",
        fix="skip the step and report the loss as it is",
        needs="the loop itself, as `train`, and an input that is real or complex",
        faults=("NaN replaced by the running mean",),
        others=("NaN reached a step", "stops at infinity", "not judged"),
    ),
    Rule(
        Code.LOSS_MINIMUM.value,
        "loss of the perfect answer",
        what="The loss of a perfect answer is compared with the smallest one that other answers have.",
        why="A loss that is smaller beyond the perfect answer has its minimum somewhere else: training goes there.",
        fix="make the loss smallest where output and target agree, and give it what it takes",
        needs="a loss of torch, whose minimum is known, or `perfect`: what a perfect network would put out",
        faults=("the loss is not smallest at the truth",),
        others=("NaN at the perfect answer", "smallest value above 0", "not judged"),
    ),
    Rule(
        Code.INDEPENDENCE.value,
        "independence of the samples",
        what="Samples of a batch are exchanged one by one, and it is asked whose answers change.",
        why="An answer that depends on the other samples is another one when the batch is.",
        fix="normalise over features, not over the batch; bring the batch to the front before a view",
        needs="two samples in the first micro-batch",
        faults=("normalised over the batch",),
        others=("the samples of a batch are mixed", "in-batch coupling", "not judged"),
    ),
    Rule(
        Code.INPUTS.value,
        "use of each input",
        what="Each input is exchanged between samples, and the answers are compared.",
        why="An input whose exchange changes no answer is not used; one answer for all samples uses none.",
        fix="pass the input on in the forward",
        needs="two samples that differ",
        others=("network never sees an input", "constant answer", "not judged"),
    ),
    Rule(
        Code.ONE_BATCH.value,
        "one batch learned by heart",
        what="A copy is trained on the first micro-batch alone, and its loss compared before and after.",
        why="A network that cannot learn one batch by heart learns nothing from many.",
        fix="test that the loss depends on all weights, and that they ask for gradients",
        needs="a trainable tensor",
        faults=("head frozen", "detached backbone", "loss detached"),
        others=("one batch is not learned", "one batch is hardly learned", "tensors that no optimiser holds",
                "not judged"),
    ),
    Rule(
        Code.EVALUATION.value,
        "training mode and evaluation mode",
        what="The loss of what was learned by heart is compared in training mode and in evaluation mode.",
        why="Where evaluation is far worse on the same data, what is evaluated is not what was trained.",
        fix="test the running statistics, and which weights the evaluation uses",
        needs="a network that learns its first micro-batch",
        severity="warning",
        others=("evaluation is another network", "not judged"),
    ),
    Rule(
        Code.RESUME.value,
        "a resumed run",
        what="Two steps, saved, loaded, and two steps more are compared with four steps on end, bit by bit; then with "
        "one part alone from the file: model, optimizer, scheduler, scaler.",
        why="State that no state_dict holds is lost when a run is resumed: it goes another way.",
        fix="register the state as a buffer, and save the optimiser too",
        needs="a forward that draws from torch's random generators only",
        others=("state outside of state_dict", "not judged"),
    ),
    Rule(
        Code.HALF_PRECISION.value,
        "half precision",
        what="The loss is computed in half precision; the weights in half precision that a step moves are counted.",
        why="float16 ends at 65504, and sums of squares go beyond it; a step of less than half the last digit of a "
        "weight is lost.",
        fix="keep weights and sums in float32, and run the layers under autocast",
        needs="one micro-batch",
        severity="note",
        faults=("squares overflow in half precision", "weights kept in bf16"),
        others=("not judged",),
    ),
    Rule(
        Code.DUPLICATES.value,
        "samples that occur twice",
        what="Training samples are compared with each other and with held-out ones; so are random states.",
        why="A validation on training samples measures memory; a forward that sets the seed draws the same numbers "
        "again and again.",
        fix="split before anything is drawn or repeated, and set seeds outside of the forward",
        needs="the held-out micro-batches, for a comparison with them",
        faults=("split leakage",),
        others=("duplicate samples", "random state set in the forward", "not judged"),
    ),
    Rule(
        Code.EQUIVALENCE.value,
        "a window and one batch",
        what="The gradient of a window of micro-batches is compared with that of one batch of all its samples.",
        why="They are the same up to rounding, unless the network couples the samples of a batch: then accumulation is "
        "another training than a large batch, in every loop.",
        fix="nothing, if it is meant",
        needs="two micro-batches in a window",
        severity="note",
        others=("in-batch coupling", "not judged"),
    ),
    Rule(
        Code.TWICE.value,
        "evaluation twice",
        what="One input is evaluated twice in evaluation mode, and the answers are compared.",
        why="Answers that differ are drawn: a dropout is on, a layer is new in each call, or evaluation changes it.",
        fix="pass training=self.training to functional dropout, make layers in __init__, change nothing in evaluation",
        needs="an input",
        others=("dropout in evaluation mode", "layers made in the forward", "evaluation changes the network",
                "state carried to the next call", "random answers in evaluation mode", "not judged"),
    ),
)  # fmt: skip

RULES: Mapping[str, Rule] = {rule.code: rule for rule in (*_OF_THE_LOOP, *_OF_THE_PROBES)}
"""All rules by their codes, "C1" … "C16" and "P1" … "P11", in this order."""
