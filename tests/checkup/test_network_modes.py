"""Networks in the wrong mode, and evaluations on other inputs, are named; what is meant so is not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from rislab.checkup.process_watch import ProcessWatch

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def names(train: nn.Module, evaluate: object, prepare: object = None, steps: int = 24) -> list[str]:
    """What is found of a network that is trained, and of what is called after every eighth step."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([value for value in train.parameters() if value.requires_grad], lr=0.01)
    with ProcessWatch(every=1) as process:
        for step in range(steps):
            if callable(prepare):
                prepare()
            optimizer.zero_grad()
            train(X).square().mean().backward()
            optimizer.step()
            if step % 8 == 7 and callable(evaluate):
                with torch.no_grad():
                    evaluate(train)
                train.train()
    return [one.name for one in process.findings() if one.code in ("C12", "C16") and one.severity != "note"]


def network(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), *layers, nn.Linear(8, 2))


def frozen(*layers: nn.Module) -> nn.Sequential:
    return network(*layers).requires_grad_(False)


def twice(train: nn.Module) -> Tensor:
    return train(X) + train(X)


def once_twice(train: nn.Module) -> Tensor:
    """The first evaluation is made twice, as one beforehand is; all others once."""
    first, train.evaluated = not hasattr(train, "evaluated"), torch.ones(())
    return twice(train) if first else train(X)


EVALUATIONS = [
    (lambda train: train(X), ["evaluated in training mode"]),
    (lambda train: train.eval()(X), []),
    (twice, []),  # dropout by Monte Carlo
    (once_twice, ["evaluated in training mode"]),
    (lambda train: train.eval()(50 + 9 * X), ["inputs of evaluation in another range"]),
    (lambda train: train.eval()(X / 255 - 1), ["inputs of evaluation in another range"]),
    (lambda train: train.eval()(X.flip(0) + 0.5), []),
    (lambda train: train.eval()(0.1 * X), []),
    (lambda train: train.eval()(torch.zeros_like(X)), []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("evaluate", "expected"), EVALUATIONS)
def test_evaluation_in_training_mode_and_on_other_inputs(evaluate: object, expected: list[str]) -> None:
    assert names(network(nn.Dropout(0.5)), evaluate) == expected


def test_a_network_whose_mode_changes_nothing_may_be_in_any() -> None:
    assert names(network(nn.ReLU()), lambda train: train(X)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "evaluated", "trained"])
def test_statistics_of_frozen_layers_stay_only_in_evaluation_mode(kind: str) -> None:
    train = network(nn.BatchNorm1d(8))
    norm = train[1]
    norm.requires_grad_(kind == "trained")

    def prepare() -> None:
        norm.train(kind != "evaluated")

    assert names(train, None, prepare) == (["statistics of frozen layers move"] if kind == "frozen" else [])


class Copied(nn.Module):
    """A network, and a frozen copy of it whose answers it is compared with."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.other = copy.deepcopy(self.own).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.own(inputs) - self.other(2 * inputs.relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("follows", [True, False])
def test_a_frozen_copy_that_answers_in_training_mode_is_to_follow(follows: bool) -> None:
    torch.manual_seed(0)
    train = Copied()
    optimizer = torch.optim.SGD(train.own.parameters(), lr=0.05)
    with ProcessWatch() as process:
        for _ in range(24):
            optimizer.zero_grad()
            train(X).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                for value, own in zip(train.other.parameters(), train.own.parameters(), strict=True):
                    value.lerp_(own, 0.05 * follows)
    named = [one.name for one in process.findings() if one.severity != "note"]
    assert set(named) == set() if follows else "average never moves" in named
    assert "statistics of frozen layers move" not in named


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_frozen_layers_in_evaluation_mode_may_be_the_first_ones(frozen: bool) -> None:
    train = network(nn.BatchNorm1d(8))
    train[1].requires_grad_(not frozen)

    def prepare() -> None:
        train[1].eval()

    expected = [] if frozen else ["running statistics never moved"]
    assert names(train, lambda network: network.eval()(X), prepare) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["without buffers", "with buffers", "momentum 0"])
def test_statistics_that_never_move_are_named_where_they_are_used(kind: str) -> None:
    train = network(nn.BatchNorm1d(8, momentum=0.0 if kind == "momentum 0" else 0.1))
    average = copy.deepcopy(train)

    def evaluate(network: nn.Module) -> None:
        with torch.no_grad():
            for mine, other in zip(average.parameters(), network.parameters(), strict=True):
                mine.lerp_(other, 0.1)
        if kind == "with buffers":
            for mine, other in zip(average.buffers(), network.buffers(), strict=True):
                mine.copy_(other)
        (train if kind == "momentum 0" else average).eval()(X)

    assert names(train, evaluate) == ([] if kind == "with buffers" else ["running statistics never moved"])


@pytest.mark.parametrize("follows", [True, False])
def test_statistics_of_the_beginning_are_a_fault_where_the_weights_are_others(follows: bool) -> None:
    torch.manual_seed(0)
    train = network(nn.BatchNorm1d(8))
    average = copy.deepcopy(train).eval()
    optimizer = torch.optim.SGD(train.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for step in range(32):
            optimizer.zero_grad()
            train(X).square().mean().backward()
            optimizer.step()
            if step % 4 == 3:
                with torch.no_grad():
                    for mine, other in zip(average.parameters(), train.parameters(), strict=True):
                        mine.lerp_(other, 0.1 * follows)
                    average(X)
    found = [one.severity for one in process.findings() if one.name == "running statistics never moved"]
    assert found == ["fault" if follows else "warning"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in training mode", "with a gradient", "in evaluation mode", "moving"])
def test_a_teacher_that_is_not_trained_belongs_in_evaluation_mode(kind: str) -> None:
    torch.manual_seed(0)
    teacher, student = network(nn.Dropout(0.5)), network(nn.ReLU())
    teacher.train(kind != "in evaluation mode")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    with ProcessWatch(every=1) as process:
        # More steps than all of them are looked at.
        for _ in range(120 if kind == "in training mode" else 12):
            with torch.set_grad_enabled(kind == "with a gradient"):
                target = teacher(X).detach()
                if kind == "moving":
                    for mine, other in zip(teacher.parameters(), student.parameters(), strict=True):
                        mine.lerp_(other, 0.1)
            optimizer.zero_grad()
            nn.functional.mse_loss(student(X), target).backward()
            optimizer.step()
        with torch.no_grad():
            teacher.eval()(X)
    found = [one.name for one in process.findings() if one.code == "C12"]
    assert found == (["frozen network in training mode"] if kind in ("in training mode", "with a gradient") else [])


@pytest.mark.parametrize("kind", ["in training mode", "frozen", "in evaluation mode", "trained now and then"])
def test_a_teacher_that_was_trained_before_belongs_in_evaluation_mode(kind: str) -> None:
    torch.manual_seed(0)
    teacher, student = network(nn.Dropout(0.5)), network(nn.ReLU())
    with ProcessWatch() as process:
        for trained, steps in ((teacher, 20), (student, 60)):
            optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
            if trained is student:
                teacher.train(kind != "in evaluation mode").requires_grad_(kind != "frozen")
            for step in range(steps):
                with torch.set_grad_enabled(kind == "frozen"):
                    target = teacher(X).detach() if trained is student else X[:, :2]
                optimizer.zero_grad()
                nn.functional.mse_loss(trained(X), target).backward()
                optimizer.step()
                if kind == "trained now and then" and step % 12 == 11:
                    other = torch.optim.SGD(teacher.parameters(), lr=0.01)
                    teacher(X).square().mean().backward()
                    other.step()
    found = [one.name for one in process.findings() if one.code == "C12"]
    assert found == (["frozen network in training mode"] if kind in ("in training mode", "frozen") else [])


@pytest.mark.parametrize("trained_before", [True, False])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.Dropout(0.5)])
@pytest.mark.parametrize("set_to_eval", [True, False])
def test_layers_alone_may_be_set_to_evaluation_mode(trained_before: bool, layer: nn.Module, set_to_eval: bool) -> None:
    """A backbone whose head is trained: train() of the whole network, then eval() of its BatchNorm or dropout."""
    torch.manual_seed(0)
    backbone = network(copy.deepcopy(layer))
    with ProcessWatch() as process:
        optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01)
        for _ in range(20 * trained_before):
            optimizer.zero_grad()
            nn.functional.mse_loss(backbone(X), X[:, :2]).backward()
            optimizer.step()
        head = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
        backbone.requires_grad_(False)
        for _ in range(60):
            backbone.train()
            for one in backbone.modules() if set_to_eval else ():
                one.train(not isinstance(one, type(layer)))
            optimizer.zero_grad()
            nn.functional.mse_loss(head(backbone(X)), X[:, :2]).backward()
            optimizer.step()
    assert bool([one for one in process.findings() if one.code == "C12"]) is not set_to_eval


@pytest.mark.parametrize("training", [True, False])
def test_statistics_of_a_frozen_network_before_the_trained_one_stay(training: bool) -> None:
    torch.manual_seed(0)
    backbone, head = frozen(nn.BatchNorm1d(8)), nn.Linear(2, 1)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for step in range(16):
            backbone.train(training and step % 8 != 7)
            with torch.no_grad():
                features = backbone(X)
            optimizer.zero_grad()
            head(features).square().mean().backward()
            optimizer.step()
    found = [one.name for one in process.findings() if one.code == "C12"]
    assert found == (["statistics of frozen layers move"] if training else [])


@pytest.mark.parametrize("again", [False, True])
def test_statistics_that_are_taken_after_the_training_are_no_evaluation(again: bool) -> None:
    torch.manual_seed(0)
    train = network(nn.BatchNorm1d(8))
    optimizer = torch.optim.SGD(train.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for step in range(16):
            optimizer.zero_grad()
            train(X).square().mean().backward()
            optimizer.step()
            if again and step == 8:
                with torch.no_grad():
                    train(X)
        with torch.no_grad():
            train(X)
            train.eval()(X)
    found = [one.name for one in process.findings() if one.code == "C12"]
    assert found == (["evaluated in training mode"] if again else [])


@pytest.mark.parametrize("kind", ["equal", "taken anew", "with buffers", "moving", "by hand", "by hand, all"])
def test_an_average_of_weights_has_statistics_of_its_own(kind: str) -> None:
    trained = network(nn.BatchNorm1d(8))
    trained(X + 1)  # so that its statistics are none of the beginning
    by_hand = copy.deepcopy(trained).requires_grad_(False)
    moving = get_ema_multi_avg_fn(0.9) if kind == "moving" else None
    average = AveragedModel(trained, use_buffers=kind == "with buffers", multi_avg_fn=moving)

    def follow() -> None:
        average.update_parameters(trained)
        pairs = [*zip(by_hand.parameters(), trained.parameters(), strict=True)]
        with torch.no_grad():
            for mine, other in pairs:
                mine.lerp_(other, 0.1)
            if kind == "by hand, all":
                for mine, other in zip(by_hand.buffers(), trained.buffers(), strict=True):
                    mine.copy_(other)

    def evaluate(_: nn.Module) -> None:
        if kind == "taken anew":
            update_bn([X], average)
        (by_hand if kind.startswith("by hand") else average).eval()(X)

    expected = ["average without its statistics"] if kind in ("equal", "by hand") else []
    assert names(trained, evaluate, follow, steps=48) == expected


@pytest.mark.parametrize(
    ("momentum", "named"), [(0.001, True), (0.99, True), (0.1, False), (0.01, False), (1.0, False)]
)
def test_a_momentum_of_another_framework_is_named(momentum: float, named: bool) -> None:
    train = network(nn.BatchNorm1d(8, momentum=momentum), nn.ReLU())
    assert names(train, lambda train: train.eval()(X)) == (["momentum of the statistics"] if named else [])


@pytest.mark.parametrize(
    ("train", "evaluate", "expected"),
    [
        ("prepared", "bytes", "fault"),
        ("bytes", "shares", "fault"),
        ("shares", "bytes", "fault"),
        ("prepared", "far away", "warning"),
        ("bytes", "bytes", ""),
    ],
)
def test_images_that_are_not_prepared_alike(train: str, evaluate: str, expected: str) -> None:
    torch.manual_seed(0)

    def images(kind: str) -> Tensor:
        raw = (128 + 40 * torch.randn(16, 1, 4, 4)).clamp(0, 255)
        return {"prepared": (raw - 128) / 40, "bytes": raw, "shares": raw / 255, "far away": raw - 400}[kind]

    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with ProcessWatch() as process:
        for step in range(24):
            optimizer.zero_grad()
            model(images(train)).square().mean().backward()
            optimizer.step()
            if step % 8 == 7:
                with torch.no_grad():
                    model.eval()(images(evaluate))
                model.train()
    found = [one.severity for one in process.findings() if one.name == "inputs of evaluation in another range"]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize("kind", ["by hand", "eval", "dropout on again"])
def test_the_attribute_training_does_not_reach_the_modules_within(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            network.train()
            for _ in range(4):
                optimizer.zero_grad()
                network(torch.randn(8, 3)).square().mean().backward()
                optimizer.step()
            if kind == "by hand":
                network.training = False
            else:
                network.eval()
                network[1].train(kind == "dropout on again")
            with torch.no_grad():
                network(torch.randn(8, 3))
    named = [one.severity for one in process.findings() if one.name == "evaluated in training mode"]
    assert named == ["fault"] * (kind == "by hand")
