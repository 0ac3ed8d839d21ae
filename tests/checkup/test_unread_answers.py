"""An evaluation that reads nothing of what the network gave is named; every way to read or to keep it is silent."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import rislab
from rislab.checkup.process_watch import ProcessWatch

Evaluation = Callable[[nn.Module], float]
ITSELF, UNREAD = ["fault scored against itself"], ["warning answers of the evaluation unread"]


@dataclass
class Answer:
    """What a network gives that no library knows."""

    logits: Tensor
    hidden: Tensor


class Network(nn.Module):
    """A network that gives its answer in one of several forms."""

    def __init__(self, form: str = "tensor") -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.form, self.kept = form, torch.zeros(())

    def forward(self, x: Tensor) -> Any:
        hidden = self.norm(self.first(x)).relu()
        logits = self.last(hidden)
        if self.form == "tuple":
            return logits, hidden
        if self.form == "dict":
            return {"logits": logits, "hidden": hidden}
        if self.form == "kept":
            self.kept = logits
        return Answer(logits, hidden) if self.form == "dataclass" else logits


def batches(count: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(8, 6, generator=generator)
        yield x, x[:, :3].argmax(1)


def logits_of(answer: Any) -> Tensor:
    if isinstance(answer, tuple | dict):
        answer = answer[0] if isinstance(answer, tuple) else answer["logits"]
    result: Tensor = answer.logits if isinstance(answer, Answer) else answer
    return result


def train_with(model: nn.Module, optimizer: torch.optim.Optimizer, evaluate: Evaluation) -> None:
    for _ in range(3):
        model.train()
        for x, y in batches():
            optimizer.zero_grad()
            functional.cross_entropy(logits_of(model(x)), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            evaluate(model)


def found(evaluate: Evaluation, form: str = "tensor", watched: bool = False) -> list[str]:
    torch.manual_seed(0)
    model = Network(form)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with rislab.watch(model, optimizer) if watched else ProcessWatch() as process:
        train_with(model, optimizer, evaluate)
    names = ("scored against itself", "answers of the evaluation unread")
    return [f"{one.severity} {one.name}" for one in process.findings() if one.name in names]


# Nothing is read of the answers.


def right_answers(model: nn.Module) -> float:
    right = 0.0
    for x, y in batches():
        predicted = model(x)
        predicted = y
        right += (predicted == y).float().sum().item()
    return right


def loss_of_the_target(model: nn.Module) -> float:
    total = 0.0
    for x, y in batches():
        answer = model(x)
        truth = functional.one_hot(y, 3).float()
        total += float(((truth - truth) ** 2).mean())
    del answer
    return total


def energy_of_the_target(model: nn.Module) -> float:
    total = torch.zeros(())
    for x, y in batches():
        truth = functional.one_hot(y, 3).float().unsqueeze(-1)
        answer = model(x)
        error = (truth.mT @ truth).square().sum() - (truth.mT @ truth).square().sum()
        total += error / len(y)
        del answer
    return float(total)


def error_of_the_input(model: nn.Module) -> float:
    return sum(
        functional.mse_loss(x[:, :3], functional.one_hot(y, 3).float()).item() for x, y in batches() if _run(model, x)
    )


def _run(model: nn.Module, x: Tensor) -> bool:
    model(x)
    return True


def score_of_another(model: nn.Module) -> float:
    total = 0
    for x, y in batches():
        model(x)
        total += int((x[:, :3].argmax(1) == y).sum())
    return total / 32


# Something is read, kept, or nothing is scored.


def read(model: nn.Module) -> float:
    return sum(functional.cross_entropy(logits_of(model(x)), y).item() for x, y in batches())


def kept_in_a_list(model: nn.Module) -> float:
    answers, targets = [], []
    for x, y in batches():
        answers.append(model(x))
        targets.append(y)
        assert bool((y == y).all())
    return float((torch.cat([logits_of(one) for one in answers]).argmax(1) == torch.cat(targets)).float().mean())


def kept_parts(model: nn.Module) -> float:
    answers = []
    for x, y in batches():
        answers.append(logits_of(model(x))[0])
        assert float((y - y).sum()) == 0
    return float(torch.stack(answers).mean())


def right_of(model: nn.Module, array: Callable[[Tensor], Any]) -> float:
    """How many answers are right, read as arrays."""
    right = 0
    for x, y in batches():
        assert bool((y == y).all())
        right += int((array(logits_of(model(x))).argmax(1) == y.numpy()).sum())
    return right


def as_an_array(model: nn.Module) -> float:
    return right_of(model, np.asarray)


def handed_over(model: nn.Module) -> float:
    return right_of(model, np.from_dlpack)


def as_a_list(model: nn.Module) -> float:
    total = 0.0
    for x, y in batches():
        total += sum(max(row) for row in logits_of(model(x)).tolist()) + float((y - y).sum())
    return total


def printed(model: nn.Module) -> float:
    texts = []
    for x, y in batches():
        texts.append(f"{logits_of(model(x))}")
        assert bool((y == y).all())
    return len(texts)


def compared_with_a_number(model: nn.Module) -> float:
    right = 0.0
    for x, y in batches():
        assert bool((y == y).all())
        right += float((logits_of(model(x)) > 0).float().mean())
    return right


def features_of_a_hook(model: nn.Module) -> float:
    features: list[Tensor] = []
    assert isinstance(model, Network)
    handle = model.first.register_forward_hook(lambda module, given, output: features.append(output.detach()))
    total = 0.0
    for x, y in batches():
        model(x)
        total += float((features[-1][:, :3].argmax(1) == y).float().mean() + (y - y).sum())
    handle.remove()
    return total


def numbers_of_a_hook(model: nn.Module) -> float:
    features: list[Any] = []
    assert isinstance(model, Network)
    handle = model.last.register_forward_hook(lambda module, given, output: features.append(output.numpy()))
    right = 0
    for x, y in batches():
        model(x)
        right += int((features[-1].argmax(1) == y.numpy()).sum()) + int((y - y).sum())
    handle.remove()
    return right


def kept_by_the_network(model: nn.Module) -> float:
    total = 0.0
    for x, y in batches():
        model(x)
        assert isinstance(model, Network)
        total += functional.cross_entropy(model.kept, y).item() + float((y - y).sum())
    return total


def statistics_anew(model: nn.Module) -> float:
    model.train()
    for x, y in batches():
        model(x)
        assert len(y) == len(x)
    model.eval()
    return 0.0


def warm_up(model: nn.Module) -> float:
    for _ in range(6):
        model(torch.zeros(8, 6))
    return read(model)


def profiled(model: nn.Module) -> float:
    count = 0
    for x, _ in batches():
        model(x)
        count += x.numel()
    return count


def input_of_another(model: nn.Module) -> float:
    total = 0.0
    for x, y in batches():
        total += float(HEAD(logits_of(model(x))).mean()) + float((y - y).sum())
    return total


HEAD = nn.Linear(3, 1)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "dataclass", "kept"])
def test_the_truth_that_is_scored_against_itself_is_a_fault(form: str, watched: bool) -> None:
    assert found(right_answers, form, watched) == ITSELF


@pytest.mark.parametrize("evaluate", [loss_of_the_target, energy_of_the_target])
def test_whatever_it_is_scored_by(evaluate: Evaluation) -> None:
    assert found(evaluate) == ITSELF


@pytest.mark.parametrize("evaluate", [error_of_the_input, score_of_another])
def test_an_evaluation_of_something_else_is_a_warning(evaluate: Evaluation) -> None:
    assert found(evaluate) == UNREAD


@pytest.mark.parametrize(
    "evaluate",
    [
        *(read, kept_in_a_list, kept_parts, as_an_array, handed_over, as_a_list, printed, compared_with_a_number),
        *(features_of_a_hook, numbers_of_a_hook, statistics_anew, warm_up, profiled, input_of_another),
    ],
)
@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_answers_that_are_read_or_kept_are_silent(evaluate: Evaluation, form: str) -> None:
    assert found(evaluate, form) == []


def test_answers_that_the_network_keeps_are_silent() -> None:
    assert found(kept_by_the_network, "kept") == []


def _scripted() -> Any:
    def right(out: Tensor, y: Tensor) -> Tensor:
        return (out.argmax(1) == y).float().mean()

    return torch.jit.script(right)


class _Right(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, out: Tensor, y: Tensor) -> Tensor:
        return (out.argmax(1) == y).float().mean()


def _of_another_thread() -> Any:
    pool = ThreadPoolExecutor(1)
    return lambda out, y: pool.submit(lambda: (out.argmax(1) == y).float().mean()).result()


@pytest.mark.parametrize(
    "make",
    [
        *(_scripted, _of_another_thread, lambda: _Right.apply),
        lambda: torch.compile(lambda out, y: (out.argmax(1) == y).float().mean(), backend="eager"),
        lambda: torch.func.vmap(lambda out, y: (out.argmax(0) == y).float()),
        lambda: lambda out, y: torch.ops.aten.sub(out[:, 0], y),
        lambda: lambda out, y: torch.tensor(pickle.dumps(out)[0]),
        lambda: lambda out, y: copy.deepcopy(out).sum(),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_functions_that_no_mode_sees_are_silent(make: Callable[[], Any]) -> None:
    score = make()

    def evaluate(model: nn.Module) -> float:
        total = torch.zeros(())
        for x, y in batches():
            total += score(model(x), y).float().mean()
            total += (y - y).sum() + functional.mse_loss(x[:, 0], y.float())
        return float(total)

    assert found(evaluate) == []
