"""The catalogue of faults: each is an edit of the real source, so the correct code holds no trace of it.

A fault's edit is applied to one module, and the whole house is compiled again around it under a name of its own:
broken(fault) returns a package whose modules import each other, and never the correct ones.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import linecache
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rislab.errors import InputError

# In the order in which they import each other.
CORE = (
    "errors", "geometry", "draws", "data", "covariance", "estimates", "descent", "subspace", "music", "waveforms",
    "bounds", "metrics", "likelihood", "sparse", "losses", "model", "records", "files", "randomness", "state",
    "training", "gradients", "runs", "overfit", "conventions",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One way in which training goes wrong in silence.

    Args:
        name: short, in words.
        story: what happened, and why it is easy to do.
        module: of rislab that is edited.
        before, after: the edit; `before` occurs exactly once in the module's source.
        symptom: what a user sees.
        checks: rungs of the overfit ladder that must turn red.
        badge: checks of the conventions badge that must turn red, and no others may.
        reference: where it has happened.
    """

    name: str
    story: str
    module: str
    before: str
    after: str
    symptom: str
    checks: tuple[str, ...] = ()
    badge: tuple[str, ...] = ()
    reference: str = ""

    def edited(self) -> str:
        """Source of the module with the edit.

        Raises:
            InputError: if the edit does not match exactly once.
        """
        source = source_of(self.module)
        matches = source.count(self.before)
        if matches != 1:
            raise InputError(f"the edit of fault {self.name!r} matches {matches} times in {self.module}; allowed: once")
        return source.replace(self.before, self.after)

    def diff(self) -> str:
        """The edit as a unified diff."""
        old, new = source_of(self.module).splitlines(), self.edited().splitlines()
        names = f"rislab/{self.module}.py", f"rislab/{self.module}.py ({self.name})"
        return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


def source_of(module: str) -> str:
    """Source text of a module of rislab."""
    return inspect.getsource(importlib.import_module(f"rislab.{module}"))


@contextmanager
def broken(fault: Fault) -> Iterator[types.ModuleType]:
    """The house with the fault in it, as a package: `with broken(fault) as house: house.training.fit(...)`.

    Its classes are not those of rislab: take configurations and data from the same house.
    """
    prefix = "rislab_" + re.sub(r"\W+", "_", fault.name)
    house = types.ModuleType(prefix)
    house.__path__ = []
    names = [prefix]
    sys.modules[prefix] = house
    try:
        for module in CORE:
            source = fault.edited() if module == fault.module else source_of(module)
            names.append(f"{prefix}.{module}")
            setattr(house, module, _compiled(f"{prefix}.{module}", _moved(source, prefix)))
        yield house
    finally:
        for name in names:
            sys.modules.pop(name, None)
            linecache.cache.pop(f"<{name}>", None)


def _moved(source: str, prefix: str) -> str:
    """The source with its imports from rislab turned to the new package."""
    return re.sub(r"^(\s*)(from|import) rislab\b", rf"\1\2 {prefix}", source, flags=re.MULTILINE)


def _compiled(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = f"<{name}>"
    sys.modules[name] = module
    # So that tracebacks and inspect show the edited lines.
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


def catalogue() -> dict[str, Fault]:
    """All faults by name."""
    return {fault.name: fault for fault in FAULTS}


# Checks of the badge that search a covariance given by its definition.
ON_COVARIANCES = ("MUSIC", "MUSIC of a factor", "map", "MVDR", "conventional beam")

FAULTS = (
    Fault(
        name="split leakage",
        story="Train, validation and test are drawn from one stream: the split's name never reaches the generator.",
        module="draws",
        before="key=seed + (SPLITS.index(split) << 64)",
        after="key=seed",
        symptom="Validation looks as good as training, however much is memorised.",
        checks=("splits",),
        badge=("splits",),
    ),
    Fault(
        name="oracle floor",
        story="A forgotten factor 2 in the cross term: the loss is not 0 at the perfect answer.",
        module="losses",
        before="- 2 * frobenius_squared(predicted.mH @ truth)",
        after="- 1.5 * frobenius_squared(predicted.mH @ truth)",
        symptom="The loss stops at a floor above 0 that no training can pass.",
        checks=("oracle",),
        badge=("loss", "oracle"),
    ),
    Fault(
        name="blend inverted",
        story="The weights of prediction and sample covariance change places in the hybrid covariance.",
        module="covariance",
        before="return torch.cat([(1 - beta) ** 0.5 * predicted, beta**0.5 * sample], dim=-1)",
        after="return torch.cat([beta**0.5 * predicted, (1 - beta) ** 0.5 * sample], dim=-1)",
        symptom="loss_nmse hardly moves while loss_nmse_pred falls.",
        checks=("oracle blend",),
    ),
    Fault(
        name="normalised by the prediction",
        story="The error is divided by the energy of the prediction instead of the truth's.",
        module="losses",
        before="    return error / truth_energy\n",
        after="    return error / frobenius_squared(predicted.mH @ predicted)\n",
        symptom="Large predictions look good; a zero prediction is not a number.",
        checks=("zero matrix",),
        badge=("zero matrix",),
    ),
    Fault(
        name="diagonal energy",
        story="The energy of a covariance is read off its trace, as if its columns were orthogonal.",
        module="losses",
        before="    error = frobenius_squared(predicted.mH @ predicted) -",
        after="    error = frobenius_squared(predicted).square() / predicted.shape[-1] -",
        symptom="The loss of a covariance depends on which of its factors was taken.",
        checks=("oracle",),
        badge=("loss", "oracle"),
    ),
    Fault(
        name="identity miscounted",
        story="The identity is scaled to trace 1 instead of N in the reference line.",
        module="losses",
        before="(1 - batch.config.elements / energy)",
        after="(1 - 1 / energy)",
        symptom="The reference line lies too high, so that learning nothing looks like progress.",
        checks=("identity",),
    ),
    Fault(
        name="constant unweighted",
        story="The constant predictor is scaled like a sum instead of a mean over the scenes.",
        module="losses",
        before="(weight[:, None, None] * source).sum(0) / weight.sum()",
        after="(weight[:, None, None] * source).sum(0) / weight.mean()",
        symptom="The constant line lies far above 1, and anything beats it.",
        checks=("constant",),
    ),
    Fault(
        name="scored against itself",
        story="The evaluation compares the truth with the truth.",
        module="training",
        before="                pred = nmse(predicted, truth)\n",
        after="                pred = nmse(truth, truth)\n",
        symptom="Validation is 0 from the first epoch on.",
        checks=("untrained", "zero matrix"),
    ),
    Fault(
        name="detached backbone",
        story="A detach() left over from debugging cuts the backbone off.",
        module="model",
        before="return self.head(self.backbone(power))",
        after="return self.head(self.backbone(power).detach())",
        symptom="The loss falls, but the backbone keeps its random weights.",
        checks=("gradient coverage",),
    ),
    Fault(
        name="normalised over the batch",
        story="Maps are centred on the mean over the batch instead of each scene's own.",
        module="model",
        before="self.standardise(torch.log(power + 1e-4))",
        after="torch.log(power + 1e-4) - torch.log(power + 1e-4).mean(dim=0)",
        symptom="A scene's answer depends on which others share its batch.",
        checks=("batch independence",),
    ),
    Fault(
        name="network never sees H",
        story="The channel is replaced by a constant on the way into the network.",
        module="model",
        before="            power = self.maps(snapshots, codes, channel)\n",
        after="            power = self.maps(snapshots, codes, torch.ones_like(channel))\n",
        symptom="Training scenes can be memorised, new ones never understood.",
        checks=("input dependence",),
    ),
    Fault(
        name="loss detached",
        story="The loss is detached before it is handed on, and rebuilt as a fresh leaf to silence the error.",
        module="losses",
        before="    return Loss(total.mean(), terms,",
        after="    return Loss(total.mean().detach().requires_grad_(), terms,",
        symptom="No gradient reaches any weight; the loss is constant.",
        checks=("gradient coverage", "one scene", "one batch", "whole set"),
    ),
    Fault(
        name="warm-up counted in samples",
        story="The length of the warm-up is declared in samples, the ticks count steps: the rate stays near 0.",
        module="state",
        before="        warm = min(1.0, (tick + 1) / config.warmup) if config.warmup > 0 else 1.0\n",
        after="        warm = min(1.0, (tick + 1) / (config.warmup * 1_000_000)) if config.warmup > 0 else 1.0\n",
        symptom="Steps are applied, gradients flow, nothing moves.",
        checks=("one scene", "one batch", "whole set"),
    ),
    Fault(
        name="never divided",
        story="The micro-batch losses are summed over the window without their weights.",
        module="training",
        before="                        weight = len(batch) / window.samples\n",
        after="                        weight = 1.0\n",
        symptom="The gradient is as many times too large as the window has micro-batches; Adam hides it.",
        checks=("accumulation",),
        reference="huggingface/transformers#34191",
    ),
    Fault(
        name="loop tail dedented",
        story="Backward has slipped out of the micro-batch loop: many forwards, one backward, on the last micro-batch.",
        module="training",
        before="                        scaler.scale(weight * loss.total).backward()\n"
        "                        meter.add(loss, weight)\n",
        after="                    scaler.scale(weight * loss.total).backward()\n"
        "                    meter.add(loss, weight)\n",
        symptom="Fewer backwards than forwards; the reported loss is a fraction of the real one.",
        checks=("accumulation", "ledger"),
        reference="the story that the lab is named for",
    ),
    Fault(
        name="step in a branch never taken",
        story="The step hangs under a condition that no window meets: no forwards yet, tested after the forwards.",
        module="training",
        before="                    if finite or scaler.is_enabled():\n",
        after='                    if finite and ledger.events["forwards"] == 0:\n',
        symptom="Forwards and backwards run, no step is ever applied, the loss is constant.",
        checks=("whole set",),
        reference="the story that the lab is named for",
    ),
    Fault(
        name="scheduler per micro-batch",
        story="The schedule is ticked for each micro-batch instead of each applied step.",
        module="training",
        before="                        meter.add(loss, weight)\n",
        after="                        meter.add(loss, weight)\n                        state.scheduler.step()\n",
        symptom="The learning rate runs out before the training does.",
        checks=("ledger",),
    ),
    Fault(
        name="last over n",
        story="The running loss keeps only the last window of the epoch, and is divided by all samples.",
        module="state",
        before="        self.loss_sum += loss * samples\n",
        after="        self.loss_sum = loss * samples\n",
        symptom="The reported loss is a fraction of the real one.",
        checks=("reported loss",),
        reference="the story that the lab is named for",
    ),
    Fault(
        name="logged after the division",
        story="The loss is logged after it was divided by the accumulation steps, and nobody multiplies it back.",
        module="training",
        before="                        meter.add(loss, weight)\n",
        after="                        meter.add(loss, weight / config.accumulation_steps)\n",
        symptom="The reported loss is a fraction of the real one; training is sound.",
        checks=("reported loss",),
        reference="Lightning-AI/pytorch-lightning#2569",
    ),
    Fault(
        name="averaged weights not restored",
        story="A checkpoint brings back the weights but not their running average.",
        module="state",
        before='            self.ema.load_state_dict(plain["ema"])\n',
        after="            pass\n",
        symptom="After a restart the averaged score falls back to that of the first weights.",
        checks=("resume",),
    ),
    Fault(
        name="random state not restored",
        story="A checkpoint brings back everything but the state of the random generators.",
        module="state",
        before='        self.randomness.load_plain(plain["randomness"])\n',
        after="",
        symptom="Dropout differs after a restart, so that no run can be repeated.",
        checks=("resume",),
    ),
    Fault(
        name="running loss forgotten",
        story="A run resumed in mid-epoch forgets the losses of the windows before it.",
        module="state",
        before='POSITION = ("samples", "epoch", "window", "step", "loss_sum", "loss_samples", "skipped")\n',
        after='POSITION = ("samples", "epoch", "window", "step", "skipped")\n',
        symptom="The first epoch after a restart reports the loss of its tail alone.",
        checks=("resume",),
    ),
    Fault(
        name="dropout in training only",
        story="Heavy dropout makes the training loss another quantity than the evaluation's.",
        module="model",
        before="        return torch.sin(self.linear(self.standardise(torch.log(power + 1e-4))))\n",
        after="        hidden = torch.sin(self.linear(self.standardise(torch.log(power + 1e-4))))\n"
        "        return nn.functional.dropout(hidden, 0.5, self.training)\n",
        symptom="Train and eval differ on the same samples with the same weights.",
        checks=("train against eval",),
    ),
    Fault(
        name="optimiser not restored",
        story="A checkpoint brings back the weights but not the optimiser's moments.",
        module="state",
        before='        self.optimizer.load_state_dict(plain["optimizer"])\n',
        after="",
        symptom="After each restart the loss jumps, and no two runs agree.",
        checks=("resume",),
    ),
    Fault(
        name="conjugated steering",
        story="The sign of the phase is turned: a wave that leaves instead of one that arrives.",
        module="geometry",
        before="    return 2 * math.pi / wavelength\n",
        after="    return -2 * math.pi / wavelength\n",
        symptom="Everything in the house agrees; nothing agrees with anybody else's covariance.",
        badge=("steering", "generator", "truth", "loss", "bound", *ON_COVARIANCES),
    ),
    Fault(
        name="metres times wavelength",
        story="The wavenumber is multiplied by the wavelength instead of divided by it.",
        module="geometry",
        before="    return 2 * math.pi / wavelength\n",
        after="    return 2 * math.pi * wavelength\n",
        symptom="Right at a wavelength of one metre, and wrong at every other.",
        badge=("steering", "generator", "truth", "loss", "bound", *ON_COVARIANCES),
    ),
    Fault(
        name="rows for columns",
        story="The surface is flattened with its rows running fastest.",
        module="geometry",
        before="grid_y, grid_z], dim=-1).reshape(-1, 3)",
        after="grid_y, grid_z], dim=-1).transpose(0, 1).reshape(-1, 3)",
        symptom="Azimuth and elevation change places for covariances that come from elsewhere.",
        badge=("steering", "generator", "truth", "loss", "bound", *ON_COVARIANCES),
    ),
    Fault(
        name="conjugated in the generator",
        story="The generator steers with the conjugate, the estimators do not.",
        module="data",
        before="    arriving = torch.bmm(symbols, vectors).mul_(true_codes)",
        after="    arriving = torch.bmm(symbols, vectors.conj()).mul_(true_codes)",
        symptom="Sources appear mirrored through broadside.",
        badge=("generator", "sparse"),
    ),
    Fault(
        name="codes not applied",
        story="The generator forgets the surface's code, which the receiver believes in.",
        module="data",
        before="    arriving = torch.bmm(symbols, vectors).mul_(true_codes)",
        after="    arriving = torch.bmm(symbols, vectors)",
        symptom="Nothing can be located, at any SNR.",
        badge=("generator", "sparse"),
    ),
    Fault(
        name="axes of the grid exchanged",
        story="The grid runs elevation first, its shape azimuth first.",
        module="geometry",
        before='mesh = torch.meshgrid(self.azimuth, self.elevation, self.range, indexing="ij")',
        after='mesh = torch.meshgrid(self.azimuth, self.elevation, self.range, indexing="xy")',
        symptom="Peaks in the wrong place, though every steering vector is right.",
        badge=("map",),
    ),
    Fault(
        name="power in one slot",
        story="Powers are normalised to 1 instead of N.",
        module="data",
        before="    return weights * (config.elements / weights.sum(dim=-1, keepdim=True))",
        after="    return weights / weights.sum(dim=-1, keepdim=True)",
        symptom="A loss that compares with trace N is lost from the start.",
        badge=("trace",),
    ),
    Fault(
        name="derivative by range turned",
        story="A sign in the derivative of the path by the range.",
        module="geometry",
        before="by_inverse = (squared + along * path) / ((distance + 1) * distance)",
        after="by_inverse = (squared - along * path) / ((distance + 1) * distance)",
        symptom="A bound that is beaten, or never reached; estimators only take longer.",
        badge=("bound",),
    ),
    Fault(
        name="matched by slot",
        story="Estimates are compared with the truth in the order in which they come.",
        module="metrics",
        before="    return every[total.argmin(dim=-1)]",
        after="    return every[torch.zeros_like(total.argmin(dim=-1))]",
        symptom="A perfect estimator with a recall of 1/K.",
        badge=("matching",),
    ),
    Fault(
        name="loading counted twice",
        story="The minimum-variance spectrum is looked for where the loaded covariance is largest.",
        module="music",
        before="weighted = vectors * (values / (values + loading)).sqrt().unsqueeze(-2)",
        after="weighted = vectors * (loading / (values + loading)).sqrt().unsqueeze(-2)",
        symptom="Valleys where the peaks should be.",
        badge=("MVDR",),
    ),
    Fault(
        name="noise subspace taken for signal",
        story="Eigenvalues come in rising order, and the first K are taken.",
        module="subspace",
        before="    signal = vectors[..., -most:].flip(-1)\n",
        after="    signal = vectors[..., :most]\n",
        symptom="From factors, MUSIC answers noise; from covariances it is right.",
        badge=("MUSIC of a factor",),
    ),
    Fault(
        name="amplitude for power",
        story="The factor of the truth carries the powers instead of their roots.",
        module="data",
        before="return vectors * self.power.to(vectors.real.dtype).sqrt().unsqueeze(-2)",
        after="return vectors * self.power.to(vectors.real.dtype).unsqueeze(-2)",
        symptom="A truth that is too bright by a factor of N/K, and nobody's trace is N.",
        badge=("truth", "loss", "trace"),
    ),
)
