"""A sum over all samples beside a mean over all numbers is told, unless one of them is weighed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch


class Autoencoder(nn.Module):
    """A variational one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 8), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + (log / 2).exp() * torch.randn_like(mean)), mean, log


def loss_of(kind: str, model: nn.Module, x: Tensor) -> Tensor:
    """The loss of an autoencoder, whose terms are taken in some way."""
    answer, mean, log = model(x)
    parts = 1 + log - mean**2 - log.exp()
    reduction = "sum" if kind == "sums" else "mean"
    error = functional.binary_cross_entropy_with_logits(answer, x, reduction=reduction)
    if kind == "sums of old":
        error = functional.binary_cross_entropy_with_logits(answer, x, size_average=False)
    if kind == "penalty on weights":
        return error + sum(value.abs().sum() for value in model.parameters())
    divergence = -0.5 * (parts.mean() if kind == "means" else torch.sum(parts))
    if kind == "divided":
        divergence = divergence / x.numel()
    return error + divergence * {"annealed": 1e-3, "weighed": 0.1}.get(kind, 1.0)


@pytest.mark.filterwarnings("ignore:size_average")
@pytest.mark.parametrize(
    "kind", ["as it is", "sums", "sums of old", "means", "divided", "annealed", "weighed", "penalty on weights"]
)
def test_a_sum_over_the_samples_beside_a_mean_is_told(kind: str) -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters())
    with ProcessWatch() as process:
        for _ in range(12):
            optimizer.zero_grad()
            loss_of(kind, model, torch.rand(16, 12).round()).backward()
            optimizer.step()
    found = [(one.severity, one.name) for one in process.findings() if one.name == "a sum beside a mean"]
    assert found == [("warning", "a sum beside a mean")] * (kind == "as it is")
