"""Averages and target networks are told from copies that run away from the weights."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rislab.checkup.findings import Finding
from rislab.checkup.loop_watch import watch
from rislab.checkup.observers import weight_copies
from rislab.checkup.process_watch import ProcessWatch

Update = Callable[[], object]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def trained(
    average_of: Callable[[nn.Module], Update], steps: int = 12, declared: bool = False, first: int = 0
) -> list[Finding]:
    """Train with an average that is updated from a step on, before each step if that is negative."""
    model, criterion = network(), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    update = average_of(model)
    with watch(model, optimizer, loss=criterion if declared else None) as watched:
        for step in range(steps):
            criterion(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
            for early in (True, False):
                if step >= first and early == (first < 0):
                    with torch.no_grad():
                        update()
                if early:
                    optimizer.step()
                    optimizer.zero_grad()
    return [finding for finding in watched.findings() if finding.name.startswith("average ")]


def in_place(sign: float) -> Callable[[nn.Module], Update]:
    def average_of(model: nn.Module) -> Update:
        shadow = [value.detach().clone() for value in model.parameters()]
        return lambda: [
            own.add_(sign * 0.01 * (value - own)) for own, value in zip(shadow, model.parameters(), strict=True)
        ]

    return average_of


def replaced(sign: float) -> Callable[[nn.Module], Update]:
    def average_of(model: nn.Module) -> Update:
        shadow: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.named_parameters()}

        def update() -> None:
            for name, value in model.named_parameters():
                shadow[name] = shadow[name] + sign * 0.01 * (value.detach() - shadow[name])

        return update

    return average_of


def target(sign: float) -> Callable[[nn.Module], Update]:
    def average_of(model: nn.Module) -> Update:
        other = copy.deepcopy(model)
        pairs = list(zip(other.parameters(), model.parameters(), strict=True))
        return lambda: [own.lerp_(value, sign * 0.05) for own, value in pairs]

    return average_of


def hard_target(model: nn.Module) -> Update:
    other = copy.deepcopy(model)
    return lambda: other.load_state_dict(model.state_dict())


def swa(model: nn.Module) -> Update:
    average = AveragedModel(model)
    return lambda: average.update_parameters(model)


def twin(model: nn.Module) -> Update:
    """Another network that is trained by hand, from the same weights."""
    other = copy.deepcopy(model)

    def update() -> None:
        with torch.enable_grad():
            loss = nn.functional.mse_loss(other(torch.randn(8, 3)), torch.randn(8, 1))
        for own, gradient in zip(other.parameters(), torch.autograd.grad(loss, [*other.parameters()]), strict=True):
            own.sub_(0.01 * gradient)

    return update


@pytest.mark.parametrize("kind", [in_place, replaced, target])
def test_a_copy_that_moves_away_is_a_fault(kind: Callable[[float], Callable[[nn.Module], Update]]) -> None:
    (finding,) = trained(kind(-1.0))
    assert finding.severity == "fault" and "copies of weights moved" in finding.evidence


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("first", [-1, 5, 60])
def test_a_copy_is_found_whenever_its_updates_begin(declared: bool, first: int) -> None:
    (finding,) = trained(target(-1.0), 200, declared, first)
    assert finding.name == "average moves away from the weights"


def test_a_copy_is_found_where_calls_are_not_heard() -> None:
    """Modes of torch, by which calls are heard, belong to one thread."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    update = in_place(-1.0)(model)

    def train() -> None:
        for _ in range(12):
            nn.functional.mse_loss(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                update()

    with watch(model, optimizer) as watched:
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert [finding.name for finding in watched.findings() if finding.severity == "fault"] == [
        "average moves away from the weights"
    ]


def test_several_tensors_of_a_call_are_found() -> None:
    def average_of(model: nn.Module) -> Update:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.005))
        return lambda: average.update_parameters(model)

    (finding,) = trained(average_of)
    assert finding.name == "average of the last weights alone"


@pytest.mark.parametrize("declared", [True, False])
def test_where_nothing_takes_a_weight_no_copy_is_looked_for(monkeypatch: pytest.MonkeyPatch, declared: bool) -> None:
    searches: list[object] = []
    monkeypatch.setattr(weight_copies, "living_objects", lambda *given, **named: searches.append(given) or [])
    assert trained(lambda model: lambda: None, 40, declared) == [] and not searches
    trained(in_place(1.0), 40, declared)
    assert searches


@pytest.mark.parametrize("share,severity", [(99.5, "fault"), (99.0, "fault"), (95.0, "warning")])
def test_a_copy_that_keeps_next_to_nothing_is_named(share: float, severity: str) -> None:
    (finding,) = trained(in_place(share))
    assert finding.name == "average of the last weights alone" and finding.severity == severity
    assert f"moved {share / 100:.4g} of the way" in finding.evidence


def test_a_copy_that_keeps_more_and_more_is_no_fault() -> None:
    def average_of(model: nn.Module) -> Update:
        other, calls = copy.deepcopy(model), [0]

        def update() -> None:
            calls[0] += 1
            for own, value in zip(other.parameters(), model.parameters(), strict=True):
                own.lerp_(value, 0.995 - 0.001 * calls[0])

        return update

    assert [one.severity for one in trained(average_of)] == ["warning"]


def test_a_copy_that_overshoots_is_named_and_a_hard_copy_is_not() -> None:
    for share, severity in ((101.0, "fault"), (110.0, "warning")):
        (finding,) = trained(in_place(share))
        assert (finding.name, finding.severity) == ("average of the last weights alone", severity)
    assert trained(in_place(100.0)) == []


@pytest.mark.parametrize("shared", [True, False])
def test_a_copy_of_weights_that_other_processes_move_is_not_judged(shared: bool) -> None:
    """The local network of asynchronous training takes the weights over, and at the next look they have gone on."""

    def average_of(model: nn.Module) -> Update:
        if shared:
            model.share_memory()
        local = copy.deepcopy(model)

        def update() -> None:
            local.load_state_dict(model.state_dict())
            for value in model.parameters():
                value += 0.0002

        return update

    assert [one.name for one in trained(average_of)] == ([] if shared else ["average of the last weights alone"])


def itself(how: str) -> Callable[[nn.Module], Update]:
    def average_of(model: nn.Module) -> Update:
        other, own = copy.deepcopy(model), list(model.parameters())
        anchor, steps = [value.detach().clone() for value in own], itertools.count()

        def update() -> None:
            tenth = next(steps) % 10 == 0
            for place, value in enumerate(other.parameters()):
                if how == "lerp":
                    value.data.lerp_(value.data, 0.05)
                elif how == "a sum":
                    added = 0.05 * value.data
                    value.data.mul_(0.95).add_(added)
                elif how == "a new copy":
                    value.data.copy_(0.05 * value + 0.95 * value)
                elif how == "in its place":
                    value.data = 0.95 * value.data + 0.05 * value.data
                elif how == "onto itself" or (how == "onto itself each tenth step" and tenth):
                    value.data.copy_(value.data)
                elif how == "shared in part":
                    value.data.copy_(own[place].data if place else value.data)
                elif how == "rarely":
                    value.data.lerp_(own[place], 1e-4)
                elif how == "anchor":
                    own[place].data.add_(anchor[place] - own[place], alpha=1e-3)

        return update

    return average_of


@pytest.mark.parametrize(
    "how",
    [
        "lerp",
        "a sum",
        "a new copy",
        "in its place",
        "onto itself",
        "onto itself each tenth step",
        "shared in part",
        "rarely",
        "anchor",
    ],
)
def test_a_copy_that_is_mixed_with_itself_is_a_fault(how: str) -> None:
    """One that follows slowly is none, nor one towards which the weights are drawn."""
    found = [(one.name, one.severity) for one in trained(itself(how), 40)]
    assert found == [("average never moves", "fault")] * (how not in ("shared in part", "rarely", "anchor"))


class WithinForward(nn.Module):
    """An encoder, and a copy of it that is to follow, updated in the forward."""

    def __init__(self, follows: bool) -> None:
        super().__init__()
        self.query, self.follows = network(), follows
        self.key = copy.deepcopy(self.query).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            for own, value in zip(self.key.parameters(), self.query.parameters(), strict=True):
                own.data.mul_(0.99).add_((value if self.follows else own).data, alpha=0.01)
            keys = self.key(inputs)
        return (self.query(inputs) - keys).square().mean()


@pytest.mark.parametrize("follows", [True, False])
def test_a_copy_that_is_mixed_with_itself_in_the_forward_is_a_fault(follows: bool) -> None:
    model = WithinForward(follows)
    optimizer = torch.optim.Adam(model.query.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(24):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).backward()
            optimizer.step()
    found = [(one.name, one.severity) for one in process.findings() if one.name.startswith("average ")]
    assert found == [("average never moves", "fault")] * (not follows)


@pytest.mark.parametrize(
    ("left", "found"), [("", []), ("actor", [("average never moves", "fault")]), ("prior", []), ("both", [])]
)
def test_a_target_actor_that_stays_while_the_target_critic_follows_is_a_fault(
    left: str, found: list[tuple[str, str]]
) -> None:
    """A copy that answers for itself, as that of a policy from which another should not go far, may stay."""
    torch.manual_seed(0)
    actor, critic = nn.Linear(3, 1), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    targets = [copy.deepcopy(actor), copy.deepcopy(critic)]
    prior = copy.deepcopy(actor)
    optimizers = [torch.optim.Adam(one.parameters(), lr=0.01) for one in (actor, critic)]
    with ProcessWatch() as process:
        for _ in range(40):
            state, following = torch.randn(16, 3), torch.randn(16, 3)
            with torch.no_grad():
                goal = targets[1](torch.cat([following, targets[0](following)], 1)) + state.sum(1, keepdim=True)
            loss = nn.functional.mse_loss(critic(torch.cat([state, torch.rand(16, 1)], 1)), goal)
            optimizers[1].zero_grad()
            loss.backward()
            optimizers[1].step()
            loss = -critic(torch.cat([state, actor(state)], 1)).mean()
            if left == "prior":
                with torch.no_grad():
                    far = prior(state)
                loss = loss + 0.1 * (actor(state) - far).square().mean()
            optimizers[0].zero_grad()
            loss.backward()
            optimizers[0].step()
            for target, own in zip(targets, (actor, critic), strict=True):
                if left != "both" and not (left == "actor" and own is actor):
                    for value, other in zip(target.parameters(), own.parameters(), strict=True):
                        value.data.copy_(0.95 * value.data + 0.05 * other.data)
    assert [(one.name, one.severity) for one in process.findings() if one.name.startswith("average ")] == found


def alias(how: str) -> Callable[[nn.Module], Update]:
    """What is to follow the weights is the network itself, and other things that are done to weights."""

    def average_of(model: nn.Module) -> Update:
        other, start = model, copy.deepcopy(model)

        def update() -> None:
            for value, own, first in zip(other.parameters(), model.parameters(), start.parameters(), strict=True):
                if how == "lerp":
                    value.lerp_(own, 0.05)
                elif how == "a sum":
                    value.data.mul_(0.95).add_(own.data, alpha=0.05)
                elif how == "a new copy":
                    value.data.copy_(0.05 * own.data + (1 - 0.05) * value.data)
                elif how == "between two":
                    for share in (0.25, 0.75):
                        first.data.copy_(share * own.data + (1 - share) * first.data)
                elif how == "to the start":
                    own.data.mul_(0.95).add_(first.data, alpha=0.05)
                elif how == "decay":
                    own.data.add_(own.data, alpha=-1e-4)
                elif how == "symmetric":
                    own.data.copy_(0.3 * own.data + 0.7 * own.data.flip(0))

        return update

    return average_of


@pytest.mark.parametrize("how", ["lerp", "a sum", "a new copy", "between two", "to the start", "decay", "symmetric"])
def test_a_target_that_is_the_network_itself_is_a_fault(how: str) -> None:
    found = [(one.name, one.severity) for one in trained(alias(how), 40) if one.name == "average never moves"]
    assert found == [("average never moves", "fault")] * (how in ("lerp", "a sum", "a new copy"))


@pytest.mark.parametrize("used", ["as it is", "divided", ""])
@pytest.mark.parametrize("kept,added", [(1.0, 0.05), (0.99, 0.05), (0.95, 0.05)])
def test_a_target_that_grows_is_a_fault_where_it_is_in_use(kept: float, added: float, used: str) -> None:
    """A sum of the weights of all steps is divided where it is used."""

    def average_of(model: nn.Module) -> Update:
        other = copy.deepcopy(model)

        def update() -> None:
            if used == "as it is":
                other(torch.zeros(1, 3))
            elif used:
                mean = {name: value / 40 for name, value in other.named_parameters()}
                torch.func.functional_call(other, mean, torch.zeros(1, 3))
            for value, own in zip(other.parameters(), model.parameters(), strict=True):
                value.data.copy_(added * own + kept * value)

        return update

    found = [(one.name, one.severity) for one in trained(average_of, 40)]
    assert found == [("average moves away from the weights", "fault")] * (used == "as it is" and kept + added > 1.01)


@pytest.mark.parametrize("every,share", [(1, 0.5), (5, 0.5), (1, 0.2)])
def test_a_decay_of_one_half_is_none_unless_it_comes_rarely(every: int, share: float) -> None:
    def average_of(model: nn.Module) -> Update:
        other, calls = copy.deepcopy(model), [0]

        def update() -> None:
            calls[0] += 1
            for own, value in zip(other.parameters(), model.parameters(), strict=True):
                own.lerp_(value, 0.0 if calls[0] % every else share)

        return update

    assert len(trained(average_of, 40)) == (every == 1 and share == 0.5)


@pytest.mark.parametrize("sign,findings", [(-1.0, 1), (1.0, 0)])
def test_stored_states_do_not_hide_the_average(sign: float, findings: int) -> None:
    def average_of(model: nn.Module) -> Update:
        before = [copy.deepcopy(model.state_dict()) for _ in range(5)]
        update = target(sign)(model)
        after = [copy.deepcopy(model.state_dict()) for _ in range(5)]
        return lambda: (update(), before, after)

    assert len(trained(average_of)) == findings


@pytest.mark.parametrize("average_of", [in_place(1.0), replaced(1.0), target(1.0), hard_target, swa, twin])
def test_a_copy_that_follows_is_none(average_of: Callable[[nn.Module], Update]) -> None:
    assert trained(average_of) == []


def test_an_optimiser_of_one_number_has_no_copies() -> None:
    scale = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([scale], lr=0.1)
    with watch(nn.ParameterList([scale]), optimizer) as watched:
        for _ in range(4):
            (scale - 1).square().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not any("average" in finding.name for finding in watched.findings())


def test_statistics_that_begin_at_one_are_no_copies_of_weights_that_do() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)]
    model = nn.Sequential(*layers)
    nn.init.normal_(model[2].weight, std=0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with watch(model, optimizer) as watched:
        for _ in range(12):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(0.1 * torch.randn(32, 3)), torch.randn(32, 1)).backward()
            optimizer.step()
            with torch.no_grad():
                sum(value.square().sum() for value in model.parameters())
    assert not [one for one in watched.findings() if one.name.startswith("average ")]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("left, and the weights put aside", "fault"),
        ("left", "warning"),
        ("put back", ""),
        ("put back late", ""),
        ("slow weights", ""),
        ("no evaluation", ""),
    ],
)
def test_an_average_takes_the_place_of_the_weights_for_the_evaluation_alone(kind: str, expected: str) -> None:
    """Lookahead puts its slow weights there on purpose, and some who average do so too."""
    model, criterion = network(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    shadow = [value.detach().clone() for value in model.parameters()]
    share = 0.5 if kind == "slow weights" else 0.05
    aside: list[Tensor] = []
    with watch(model, optimizer) as watched:
        for step in range(48):
            criterion(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                if kind != "slow weights" or step % 8 == 7:
                    for own, value in zip(shadow, model.parameters(), strict=True):
                        own.lerp_(value, share)
                if step % 8 != 7:
                    continue
                aside = [value.clone() for value in model.parameters()] if kind not in ("left", "slow weights") else []
                for own, value in zip(shadow, model.parameters(), strict=True):
                    value.copy_(own)
            if kind != "no evaluation":
                model.eval()
                with torch.no_grad():
                    model(torch.zeros(2, 3))
                model.train()
            if kind == "put back late":
                model(torch.zeros(2, 3))
            if kind.startswith("put back"):
                with torch.no_grad():
                    for own, value in zip(aside, model.parameters(), strict=True):
                        value.copy_(own)
    found = [one.severity for one in watched.findings() if one.name == "averaged weights stay"]
    assert found == [expected] * bool(expected)


@pytest.mark.parametrize("kind", ["never", "each step", "late", "without copies", "rate of 0"])
def test_a_shadow_that_takes_the_place_of_the_weights_follows_them(kind: str) -> None:
    """One whose updates begin late follows in the end; without a copy, an evaluation is of the weights."""
    model, criterion = network(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0 if kind == "rate of 0" else 0.1)
    shadow = [value.detach().clone() for value in model.parameters()]
    with watch(model, optimizer) as watched:
        for step in range(30):
            criterion(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                if kind == "each step" or (kind == "late" and step > 15):
                    for own, value in zip(shadow, model.parameters(), strict=True):
                        own.mul_(0.9).add_(value, alpha=0.1)
                if step % 5 == 4:
                    aside = [value.clone() for value in model.parameters()]
                    for value, own in zip(model.parameters(), shadow, strict=True):
                        value.copy_(value if kind == "without copies" else own)
                    model(torch.randn(8, 3))
                    for value, own in zip(model.parameters(), aside, strict=True):
                        value.copy_(own)
    found = [one.severity for one in watched.findings() if one.name == "average never moves"]
    assert found == (["warning"] if kind == "never" else [])
