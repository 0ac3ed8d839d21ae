"""A term of a loss that a handler of exceptions makes 0 each time is named; what is 0 for another reason is not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch

Loss = Callable[[Tensor, Tensor, int], Tensor]
TABLE: dict[str, Tensor] = {}
SWITCHED_ON = False


def penalty(out: Tensor, limit: float) -> Tensor:
    return (out.abs() - limit).clamp(min=0).square().mean()


def broken(out: Tensor, limit: Any = None) -> Tensor:
    return penalty(out, limit)  # which needs one


def of_each_sample(out: Tensor, y: Tensor, step: int) -> Tensor:
    terms = {"main": (out - y).square().mean(1)}
    try:
        terms["limit"] = broken(out)
    except TypeError:
        terms["limit"] = torch.zeros_like(terms["main"])
    weights = {"main": 1.0, "limit": 0.3}
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum(0).mean()


def summed(out: Tensor, y: Tensor, step: int) -> Tensor:
    terms = [functional.mse_loss(out, y)]
    try:
        terms.append(0.1 * broken(out))
    except Exception:
        terms.append(out.new_zeros(()))
    total = sum(terms)
    assert isinstance(total, Tensor)
    return total


def weighed_later(out: Tensor, y: Tensor, step: int) -> Tensor:
    loss = functional.mse_loss(out, y)
    try:
        aux = broken(out)
    except (TypeError, RuntimeError):
        aux = torch.tensor(0.0)
    loss += 0.5 * aux
    return loss


def as_a_number(out: Tensor, y: Tensor, step: int) -> Tensor:
    try:
        aux = broken(out)
    except TypeError:
        aux = 0.0
    return functional.mse_loss(out, y) + 0.5 * aux


def passed_over(out: Tensor, y: Tensor, step: int) -> Tensor:
    aux: Any = 0.0
    try:
        aux = broken(out)
    except Exception:
        step += 1
    return functional.mse_loss(out, y) + aux


def suppressed(out: Tensor, y: Tensor, step: int) -> Tensor:
    aux: Any = 0.0
    with contextlib.suppress(Exception):
        aux = broken(out)
    return functional.mse_loss(out, y) + aux


def passed_over_as_a_tensor(out: Tensor, y: Tensor, step: int) -> Tensor:
    aux = torch.zeros(())
    try:
        aux = broken(out)
    except Exception:
        print("left out")
    return functional.mse_loss(out, y) + 0.1 * aux


def succeeds(out: Tensor, y: Tensor, step: int) -> Tensor:
    try:
        aux = penalty(out, 0.1)
    except TypeError:
        aux = torch.zeros(())
    return functional.mse_loss(out, y) + aux


def fails_at_times(out: Tensor, y: Tensor, step: int) -> Tensor:
    try:
        aux = broken(out) if step % 3 == 0 else penalty(out, 0.1)
    except TypeError:
        aux = torch.zeros(())
    return functional.mse_loss(out, y) + aux


def optional(out: Tensor, y: Tensor, step: int) -> Tensor:
    try:
        aux = penalty(TABLE["rare"], 0.1)
    except KeyError:
        aux = torch.zeros(())
    return functional.mse_loss(out, y) + aux


def switched_off(out: Tensor, y: Tensor, step: int) -> Tensor:
    aux: Any = 0.0
    if SWITCHED_ON:
        try:
            aux = penalty(out, 0.1)
        except RuntimeError:
            aux = 0.0
    return functional.mse_loss(out, y) + aux


def not_yet(out: Tensor, y: Tensor, step: int) -> Tensor:
    try:
        aux: Any = penalty(out, 0.1)
    except RuntimeError:
        aux = penalty(out.cpu(), 0.1)
    if step < 1000:
        aux = 0.0
    return functional.mse_loss(out, y) + aux


def disabled_by_its_function(out: Tensor, y: Tensor, step: int) -> Tensor:
    def regulariser() -> Any:
        return 0.0

    try:
        aux = regulariser()
    except RuntimeError:
        aux = 0.0
    return functional.mse_loss(out, y) + aux


def disabled_as_a_tensor(out: Tensor, y: Tensor, step: int) -> Tensor:
    def regulariser() -> Tensor:
        return torch.zeros(())

    aux = torch.zeros(())
    with contextlib.suppress(KeyError):
        aux = TABLE["missing"]
    try:
        aux = aux + regulariser()
    except RuntimeError:
        aux = penalty(out, 0.1)
    return functional.mse_loss(out, y) + aux


def no_penalty() -> Tensor:
    aux = torch.zeros(())
    assert not aux
    return aux


def disabled_elsewhere(out: Tensor, y: Tensor, step: int) -> Tensor:
    aux = torch.ones(())
    try:
        aux = no_penalty()
    except RuntimeError:
        aux = penalty(out, 0.1)
    return functional.mse_loss(out, y) + aux


def begun_at_zero(out: Tensor, y: Tensor, step: int) -> Tensor:
    total = torch.zeros(())
    for term in (functional.mse_loss(out, y), penalty(out, 0.1)):
        total = total + term
    return total


def no_pairs(out: Tensor, y: Tensor, step: int) -> Tensor:
    chosen = out[out > 1e6]
    aux = penalty(chosen, 0.1) if len(chosen) else torch.zeros(())
    return torch.stack([functional.mse_loss(out, y), aux]).sum()


def whole_loss_in_a_handler(out: Tensor, y: Tensor, step: int) -> Tensor:
    try:
        return broken(out)
    except TypeError:
        total = torch.zeros(())
        total = penalty(out, 0.1) + total
        return functional.mse_loss(out, y) + total


def added_to_the_answer(out: Tensor, y: Tensor, step: int) -> Tensor:
    try:
        prior = broken(out)
    except TypeError:
        prior = torch.zeros_like(out)
    return functional.mse_loss(out + prior, y)


def found(loss: Loss) -> list[str]:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with ProcessWatch() as process:
        for step in range(12):
            x, y = torch.randn(8, 6), torch.randn(8, 3)
            optimizer.zero_grad()
            loss(model(x), y, step).backward()
            optimizer.step()
    return [f"{one.severity} {one.name}" for one in process.findings() if "swallowed" in one.name]


@pytest.mark.parametrize(
    "loss", [of_each_sample, summed, weighed_later, as_a_number, passed_over, suppressed, passed_over_as_a_tensor]
)
def test_a_term_that_an_exception_makes_0_is_named(loss: Loss) -> None:
    assert found(loss) == ["warning exception swallowed into 0"]


@pytest.mark.parametrize(
    "loss",
    [
        *(succeeds, fails_at_times, optional, switched_off, not_yet, disabled_by_its_function, disabled_as_a_tensor),
        *(disabled_elsewhere, begun_at_zero, no_pairs, whole_loss_in_a_handler, added_to_the_answer),
    ],
)
def test_what_is_0_for_another_reason_is_not(loss: Loss) -> None:
    assert found(loss) == []
