"""The table of torch's losses: no input has a smaller loss than the one it names, and bad arguments are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.probes.loss_minima import BOUNDED, MINIMISERS, LossCalls

GENERATOR = torch.Generator().manual_seed(4)
REAL = torch.randn(6, 4, generator=GENERATOR)
SHARES = functional.softmax(REAL, dim=1)
INDEX = torch.tensor([0, 3, 1, 2, 2, 0])
SIGNS = REAL.sign()
LABELS = (REAL > 0).float()
COUNTS = torch.tensor([[0.0, 1.0, 4.0, 2.0]]).repeat(6, 1)
WEIGHT = torch.tensor([1.0, 3.0, 0.5, 2.0])
LISTED = torch.tensor([[3, 0, -1, 1], [1, -1, 0, 0], [-1, 0, 0, 0], [0, 1, 2, 3], [2, -1, -1, -1], [0, 2, -1, 0]])


def free(value: Tensor) -> Tensor:
    return value


def logarithms(value: Tensor) -> Tensor:
    return functional.log_softmax(value, dim=1)


def log_of_cross_entropy(**options: Any) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
    return nn.CrossEntropyLoss(**options), INDEX, free


# A loss, its target, and what makes of any numbers an input that it takes.
CASES: dict[str, tuple[Callable[..., Tensor], Tensor, Callable[[Tensor], Tensor]]] = {
    "mse": (nn.MSELoss(reduction="sum"), REAL, free),
    "l1": (nn.L1Loss(), REAL, free),
    "smooth l1": (nn.SmoothL1Loss(beta=0.2), REAL, free),
    "huber": (nn.HuberLoss(delta=0.2), REAL, free),
    "bce": (nn.BCELoss(weight=WEIGHT), SHARES, torch.sigmoid),
    "bce hard": (nn.BCELoss(), LABELS, torch.sigmoid),
    "logits": (nn.BCEWithLogitsLoss(), SHARES, free),
    "logits weighted": (nn.BCEWithLogitsLoss(pos_weight=WEIGHT, weight=WEIGHT), SHARES, free),
    "multilabel soft margin": (nn.MultiLabelSoftMarginLoss(weight=WEIGHT), LABELS, free),
    "cross entropy": log_of_cross_entropy(),
    "cross entropy weighted": log_of_cross_entropy(weight=WEIGHT),
    "cross entropy smoothed": log_of_cross_entropy(label_smoothing=0.2),
    "cross entropy smoothed, weighted, ignored, summed": log_of_cross_entropy(
        label_smoothing=0.3, weight=WEIGHT, ignore_index=2, reduction="sum"
    ),
    "cross entropy soft": (nn.CrossEntropyLoss(), SHARES, free),
    "cross entropy soft, weighted, smoothed": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), SHARES, free),
    "nll": (nn.NLLLoss(weight=WEIGHT, ignore_index=1), INDEX, logarithms),
    "kl": (nn.KLDivLoss(reduction="batchmean"), SHARES, logarithms),
    "kl log": (nn.KLDivLoss(reduction="sum", log_target=True), SHARES.log(), logarithms),
    "poisson": (nn.PoissonNLLLoss(full=True), COUNTS, free),
    "poisson rates": (nn.PoissonNLLLoss(log_input=False, eps=1e-3), COUNTS, functional.softplus),
    "gaussian": (lambda o, t: functional.gaussian_nll_loss(o, t, 0.3, full=True), REAL, free),
    "soft margin": (nn.SoftMarginLoss(), SIGNS, free),
    "multi margin": (nn.MultiMarginLoss(p=2, weight=WEIGHT), INDEX, free),
    "multilabel margin": (nn.MultiLabelMarginLoss(), LISTED, free),
    "hinge embedding": (nn.HingeEmbeddingLoss(margin=0.7), SIGNS, functional.softplus),
}


@pytest.mark.parametrize("name", CASES)
def test_no_descent_goes_below_the_minimum_and_one_comes_close(name: str) -> None:
    loss, target, allowed = CASES[name]
    numbers = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with LossCalls() as calls:
        first = loss(allowed(numbers), target)
    assert len(calls.calls) == 1 and calls.calls[0].result is first
    minimum = calls.calls[0].minimum()
    assert minimum is not None and not minimum.wrong
    adam = torch.optim.Adam([numbers], lr=0.1)
    lowest = float(first.detach())
    for _ in range(400):
        adam.zero_grad()
        value = loss(allowed(numbers), target)
        value.backward()
        adam.step()
        lowest = min(lowest, float(value.detach()))
    assert minimum.value - 1e-5 <= lowest <= minimum.value + 0.02 * (float(first.detach()) - minimum.value) + 1e-3
    assert minimum.minimiser is not None and minimum.minimiser.shape == (6, 4)


def test_each_loss_of_the_table_has_a_case() -> None:
    covered = set()
    for loss, target, allowed in CASES.values():
        with LossCalls() as calls:
            loss(allowed(REAL), target)
        covered.add(calls.calls[0].function)
    assert covered == set(MINIMISERS)
    assert not covered & set(BOUNDED)


WRONG: dict[str, tuple[Callable[[], Tensor], str]] = {
    "kl of shares": (lambda: functional.kl_div(SHARES, SHARES, reduction="sum"), "logarithms of probabilities"),
    "nll of shares": (lambda: functional.nll_loss(SHARES, INDEX), "logarithms of probabilities"),
    "nll of scores": (lambda: functional.nll_loss(REAL - 5 + 6 * LABELS, INDEX), "logarithms of probabilities"),
    "nll over the batch": (
        lambda: functional.nll_loss(functional.log_softmax(REAL * 3, dim=0), INDEX), "sum up to"
    ),
    "ctc of scores": (
        lambda: functional.ctc_loss(
            REAL[:, None], torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2])
        ), "ctc_loss takes logarithms"
    ),
    "signs for shares": (lambda: functional.binary_cross_entropy_with_logits(REAL, SIGNS), "from 0 to 1"),
    "classes for shares": (lambda: functional.multilabel_soft_margin_loss(REAL, 2 * LABELS), "0 … 2"),
    "shares for signs": (lambda: functional.soft_margin_loss(REAL, LABELS), "targets of -1 and 1, and got 0"),
    "negative counts": (lambda: functional.poisson_nll_loss(REAL, -COUNTS), "counts"),
    "negative shares": (lambda: functional.cross_entropy(REAL, REAL), "probabilities as targets"),
    "scores for distances": (lambda: functional.hinge_embedding_loss(REAL, SIGNS), "takes distances"),
    "each with all": (lambda: functional.mse_loss(REAL[:, :1], REAL[:, 0]), "compares each with all"),
    "cosine of 0 and 1": (
        lambda: functional.cosine_embedding_loss(REAL, REAL, LABELS[:, 0]), "targets of -1 and 1, and got 0"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", WRONG)
def test_arguments_that_move_the_minimum_away_are_told(name: str) -> None:
    call, message = WRONG[name]
    with LossCalls() as calls:
        call()
    minimum = calls.calls[0].minimum()
    assert minimum is not None and message in minimum.wrong
    assert "test_loss_minima.py:" in calls.calls[0].where


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_has_no_single_minimum_is_not_known() -> None:
    variance = torch.ones(6, 4, requires_grad=True)
    with LossCalls() as calls:
        functional.gaussian_nll_loss(REAL, REAL, variance)
        functional.triplet_margin_loss(REAL, REAL, REAL)
        functional.mse_loss(REAL[0], REAL)
    gaussian, triplet, broadcast = (call.minimum() for call in calls.calls)
    assert gaussian is None and broadcast is None
    assert triplet is not None and triplet.value == 0 and triplet.minimiser is None
