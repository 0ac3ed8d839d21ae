"""A backward that is not the derivative of its forward is named; one that is meant to be another is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

from rislab.checkup.probes.function_probes import function_probes
from tests.checkup.correct_networks import Of

Formula = Callable[[Tensor], Tensor]

CASES: dict[str, tuple[Formula, Formula, bool]] = {
    "right": (lambda x: x * x.sigmoid(), lambda x: x.sigmoid() * (1 + x - x * x.sigmoid()), False),
    "a term missing": (lambda x: x * x.sigmoid(), lambda x: x.sigmoid(), True),
    "half as long": (lambda x: x.square(), lambda x: x, True),
    "other sign": (lambda x: (-x).exp(), lambda x: (-x).exp(), True),
    "a kink": (lambda x: x.relu(), lambda x: (x > 0).float(), False),
    "reversed": (lambda x: x.clone(), lambda x: -torch.ones_like(x), False),
    "scaled": (lambda x: x * 1, lambda x: torch.full_like(x, 0.1), False),
    "rounded": (lambda x: x.round(), torch.ones_like, False),
    "a spike": (lambda x: (x > 0).to(x.dtype), lambda x: 1 / (1 + x.abs()).square(), False),
    "clamped": (lambda x: x.clamp(-1, 1), torch.ones_like, False),
    "float32 alone": (lambda x: x.square().float(), lambda x: x.float(), False),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("apart", [False, True])
def test_a_backward_is_the_derivative_of_its_forward(name: str, apart: bool) -> None:
    """Of functions that set their context up in forward, or apart from it; their class is left as it was."""
    formula, slope, wrong = CASES[name]

    class Plain(Function):
        @staticmethod
        def forward(*given: Any) -> Tensor:
            if not apart:
                given[0].save_for_backward(given[1])
            return formula(given[-1])

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return gradients[0] * slope(ctx.saved_tensors[0])

    class Apart(Plain):
        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(inputs[0])

    kind = Apart if apart else Plain
    held, apply = vars(Plain)["forward"], kind.apply
    network = Of(lambda p, x: apply(p["layer"](x)), layer=nn.Linear(3, 4))
    findings = function_probes(network, (torch.randn(8, 3),), {})
    assert [one.name for one in findings] == (["backward is not the derivative"] if wrong else [])
    assert vars(Plain)["forward"] is held
