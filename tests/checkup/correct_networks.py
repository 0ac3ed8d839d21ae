"""Correct networks with their losses and data: no probe may find a fault in them, or warn of anything."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

Case = tuple[nn.Module, Callable[..., Any] | None, list[Any]]


class Of(nn.Module):
    """Parts, and what a function makes of them and the inputs."""

    def __init__(self, call: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.call, self.parts = call, nn.ModuleDict(parts)

    def forward(self, *inputs: Any) -> Any:
        return self.call(self.parts, *inputs)


class Language(nn.Module):
    """Computes its own loss, as is usual with language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(12, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 12)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        hidden = self.cell(self.embed(input_ids) * attention_mask[..., None])[0]
        logits = self.head(hidden)
        shifted = None if labels is None else functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:])
        return SimpleNamespace(loss=shifted, logits=logits)


def dense(size: int, *tail: nn.Module, middle: tuple[nn.Module, ...] = ()) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), *middle, nn.Tanh(), nn.Linear(24, size), *tail)


def inputs(*shape: int) -> Tensor:
    return torch.randn(4 * 8, *(shape or (6,)), generator=torch.Generator().manual_seed(5))


def paired(x: Any, y: Any) -> list[Any]:
    return list(zip(x.split(8), y.split(8), strict=True))


X = inputs()
REAL = torch.tanh(X[:, :3] * 1.5 + X[:, 3:] / 2)
HARD = (X[:, :1] + X[:, 1:2] > 0).float()
LABELS = (X[:, :5] > 0).float()
CLASS = X[:, :5].argmax(dim=1)
SHARES = functional.softmax(2 * X[:, :5], dim=1)
COUNTS = torch.poisson(torch.exp(X[:, :1] / 2), generator=torch.Generator().manual_seed(2))
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
IDS = torch.randint(1, 12, (32, 6), generator=torch.Generator().manual_seed(1))


def focal(output: Tensor, target: Tensor) -> Tensor:
    each = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
    return (each * (1 - torch.sigmoid(output * (2 * target - 1))) ** 2).mean()


def dice(output: Tensor, target: Tensor) -> Tensor:
    share = torch.sigmoid(output)
    return 1 - (2 * (share * target).sum() + 1) / (share.sum() + target.sum() + 1)


def kl_of_logits(output: Tensor, target: Tensor) -> Tensor:
    return functional.kl_div(functional.log_softmax(output, dim=1), target, reduction="batchmean")


def contrast(output: Any, target: Tensor) -> Tensor:
    one, two = (functional.normalize(part) for part in output)
    return functional.cross_entropy(one @ two.T / 0.2, torch.arange(len(one)))


def masked(output: Tensor, target: Tensor) -> Tensor:
    each = functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none", ignore_index=-100)
    return each.sum() / (target != -100).sum()


DENSE: dict[str, Callable[[], Case]] = {
    "squares": lambda: (dense(3), nn.MSELoss(), paired(X, REAL)),
    "sum of squares": lambda: (dense(3), nn.MSELoss(reduction="sum"), paired(X, REAL)),
    "absolute": lambda: (dense(3), functional.l1_loss, paired(X, REAL)),
    "smooth": lambda: (dense(3), nn.SmoothL1Loss(beta=0.5), paired(X, REAL)),
    "huber": lambda: (dense(3), nn.HuberLoss(delta=0.3), paired(X, REAL)),
    "quantile": lambda: (
        dense(3), lambda o, t: torch.maximum(0.9 * (t - o), 0.1 * (o - t)).mean(), paired(X, REAL)
    ),
    "log cosh": lambda: (dense(3), lambda o, t: torch.log(torch.cosh(o - t)).mean(), paired(X, REAL)),
    "relative": lambda: (
        dense(3), lambda o, t: (o - t).square().sum() / t.square().sum(), paired(X, REAL)
    ),
    "normalised in the loss": lambda: (
        dense(3), lambda o, t: functional.mse_loss(o, (t - 5) / 3), paired(X, REAL * 3 + 5)
    ),
    "cosine": lambda: (
        dense(3), lambda o, t: 1 - functional.cosine_similarity(o, t).mean(), paired(X, REAL)
    ),
    "gaussian": lambda: (
        dense(6), lambda o, t: functional.gaussian_nll_loss(o[:, :3], t, functional.softplus(o[:, 3:]) + 0.1),
        paired(X, REAL),
    ),
    "logits": lambda: (dense(1), nn.BCEWithLogitsLoss(), paired(X, HARD)),
    "several labels": lambda: (dense(5), nn.BCEWithLogitsLoss(), paired(X, LABELS)),
    "weighted logits": lambda: (dense(5), nn.BCEWithLogitsLoss(pos_weight=WEIGHT), paired(X, SHARES)),
    "soft margin of labels": lambda: (dense(5), nn.MultiLabelSoftMarginLoss(), paired(X, LABELS)),
    "probabilities": lambda: (dense(1, nn.Sigmoid()), nn.BCELoss(), paired(X, HARD)),
    "soft probabilities": lambda: (dense(5, nn.Sigmoid()), nn.BCELoss(reduction="sum"), paired(X, SHARES)),
    "classes": lambda: (dense(5), nn.CrossEntropyLoss(), paired(X, CLASS)),
    "smoothed": lambda: (dense(5), nn.CrossEntropyLoss(label_smoothing=0.1), paired(X, CLASS)),
    "weighted and smoothed": lambda: (
        dense(5), nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), paired(X, CLASS)
    ),
    "ignored": lambda: (
        dense(5), nn.CrossEntropyLoss(ignore_index=4, reduction="sum"), paired(X, CLASS)
    ),
    "one-hot": lambda: (dense(5), functional.cross_entropy, paired(X, functional.one_hot(CLASS, 5).float())),
    "soft classes": lambda: (dense(5), functional.cross_entropy, paired(X, SHARES)),
    "log-likelihood": lambda: (dense(5, nn.LogSoftmax(dim=1)), nn.NLLLoss(weight=WEIGHT), paired(X, CLASS)),
    "distillation": lambda: (dense(5), kl_of_logits, paired(X, SHARES)),
    "distillation of logarithms": lambda: (
        dense(5, nn.LogSoftmax(dim=1)), nn.KLDivLoss(reduction="batchmean", log_target=True), paired(X, SHARES.log())
    ),
    "margin of classes": lambda: (dense(5), nn.MultiMarginLoss(), paired(X, CLASS)),
    "counts": lambda: (dense(1), nn.PoissonNLLLoss(full=True), paired(X, COUNTS)),
    "rates": lambda: (
        dense(1, nn.Softplus()), nn.PoissonNLLLoss(log_input=False), paired(X, COUNTS)
    ),
    "soft margin": lambda: (dense(1), nn.SoftMarginLoss(), paired(X, 2 * HARD - 1)),
    "hinge": lambda: (dense(1), lambda o, t: functional.relu(1 - o * t).mean(), paired(X, 2 * HARD - 1)),
    "focal": lambda: (dense(1), focal, paired(X, HARD)),
    "focal of classes": lambda: (
        dense(5), lambda o, t: ((1 - (p := -functional.cross_entropy(o, t, reduction="none")).exp()) ** 2 * -p).mean(),
        paired(X, CLASS),
    ),
    "dice": lambda: (dense(5), dice, paired(X, LABELS)),
    "two losses": lambda: (
        dense(5), lambda o, t: functional.cross_entropy(o, t) + 0.1 * focal(o, functional.one_hot(t, 5).float()),
        paired(X, CLASS),
    ),
    "regularised": lambda: (
        dense(5), lambda o, t: functional.cross_entropy(o, t) + 1e-2 * o.square().mean(), paired(X, CLASS)
    ),
}  # fmt: skip

NETWORKS: dict[str, Callable[[], Case]] = {
    "BatchNorm and dropout": lambda: (
        dense(5, middle=(nn.BatchNorm1d(24), nn.Dropout(0.1))), nn.CrossEntropyLoss(), paired(X, CLASS)
    ),
    "images": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)
        ),
        nn.CrossEntropyLoss(), paired(inputs(2, 8, 8), CLASS % 3),
    ),
    "segmentation": lambda: (
        nn.Sequential(nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 1)),
        nn.CrossEntropyLoss(), paired(x := inputs(2, 6, 6), (x[:, 0] > 0).long() + (x[:, 1] > 0).long()),
    ),
    "weight norm": lambda: (nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), nn.MSELoss(), paired(X, REAL)),
    "tagger": lambda: (
        Of(lambda p, x: p["head"](p["cell"](p["embed"](x))[0]).transpose(1, 2), embed=nn.Embedding(12, 16),
           cell=nn.LSTM(16, 12, bidirectional=True, batch_first=True), head=nn.Linear(24, 12)),
        nn.CrossEntropyLoss(ignore_index=-100), paired(IDS, IDS.masked_fill(IDS > 9, -100)),
    ),
    "masked tokens": lambda: (
        Of(lambda p, x: p["head"](p["embed"](x)), embed=nn.Embedding(12, 16), head=nn.Linear(16, 12)),
        masked, paired(IDS, IDS.masked_fill(IDS % 4 == 0, -100)),
    ),
    "transformer": lambda: (
        Of(lambda p, x: p["head"](p["blocks"](p["embed"](x)).mean(1)), embed=nn.Linear(4, 16), head=nn.Linear(16, 3),
           blocks=nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), 1)),
        nn.CrossEntropyLoss(), paired(inputs(5, 4), CLASS % 3),
    ),
    "sequences first": lambda: (
        Of(lambda p, x: p["head"](p["cell"](x)[0]), cell=nn.GRU(4, 16, bidirectional=True), head=nn.Linear(32, 2)),
        nn.MSELoss(), [(x.transpose(0, 1), x.transpose(0, 1)[..., :2]) for x in inputs(5, 4).split(8)],
    ),
    "lists of sequences": lambda: (
        Of(lambda p, xs: p["head"](p["cell"](pad_sequence(xs, batch_first=True))[0].mean(1)),
           cell=nn.GRU(4, 16, batch_first=True), head=nn.Linear(16, 3)),
        nn.CrossEntropyLoss(), [([*x], y) for x, y in paired(inputs(5, 4), CLASS % 3)],
    ),
    "lists of two lengths": lambda: (
        Of(lambda p, xs: torch.stack([p["head"](x).mean(0) for x in xs]), head=nn.Linear(4, 3)),
        nn.CrossEntropyLoss(),
        [([one[: 2 + at % 3] for at, one in enumerate(x)], y) for x, y in paired(inputs(5, 4), CLASS % 3)],
    ),
    "language model": lambda: (
        Language(), lambda output, batch: output.loss,
        [{"input_ids": x, "attention_mask": torch.ones_like(x), "labels": x} for x in IDS.split(8)],
    ),
    "language model with its own loss": lambda: (
        Language(), None, [{"input_ids": x, "attention_mask": torch.ones_like(x), "labels": x} for x in IDS.split(8)]
    ),
    "targets in the mapping": lambda: (
        Language(),
        lambda output, batch: functional.cross_entropy(output.logits.transpose(1, 2), batch["classes"]),
        [{"input_ids": x, "attention_mask": torch.ones_like(x), "classes": (x + 1) % 12} for x in IDS.split(8)],
    ),
    "several outputs": lambda: (
        Of(lambda p, x: {"class": p["one"](h := torch.tanh(p["body"](x))), "value": p["two"](h)},
           body=nn.Linear(6, 16), one=nn.Linear(16, 5), two=nn.Linear(16, 3)),
        lambda o, t: functional.cross_entropy(o["class"], t[0]) + functional.mse_loss(o["value"], t[1]),
        [(x, (c, y)) for x, c, y in zip(X.split(8), CLASS.split(8), REAL.split(8), strict=True)],
    ),
    "triplets": lambda: (
        Of(lambda p, *xs: tuple(p["body"](x) for x in xs), body=nn.Linear(6, 8)),
        lambda o, t: functional.triplet_margin_loss(*o),
        [((x, x + 0.1 * x.flip(1), x.flip(0) + 1), c) for x, c in paired(X, CLASS)],
    ),
    "contrast": lambda: (
        Of(lambda p, a, b: (p["body"](a), p["body"](b)), body=nn.Linear(6, 8)),
        contrast, [((x, x + 0.1 * x.flip(1)), c) for x, c in paired(X, CLASS)],
    ),
    "variational": lambda: (
        Of(lambda p, x: ((m := p["mean"](x)), p["out"](m + 0.1 * torch.randn_like(m))),
           mean=nn.Linear(6, 8), out=nn.Linear(8, 6)),
        lambda o, t: functional.mse_loss(o[1], t) + 1e-3 * o[0].square().mean(), paired(X, X),
    ),
    "graph": lambda: (
        Of(lambda p, x, e: p["b"](torch.relu((y := p["a"](x)).index_add(0, e[1], y[e[0]]))),
           a=nn.Linear(6, 24), b=nn.Linear(24, 5)),
        nn.CrossEntropyLoss(),
        [((X, torch.randint(0, 32, (2, 60), generator=torch.Generator().manual_seed(0))), CLASS)],
    ),
}  # fmt: skip

CORRECT_NETWORKS = {**DENSE, **NETWORKS}
