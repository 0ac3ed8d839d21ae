"""The probes: each names what is broken, keeps silent where nothing is, and changes nothing that it was given."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import rislab
from rislab.checkup.findings import Findings
from rislab.checkup.probes.probe_target import state_bytes
from rislab.checkup.probes.suite import PROBES
from rislab.errors import InputError
from rislab.faults.catalogue import FAULTS
from rislab.faults.patching import patched
from tests.checkup.correct_networks import CORRECT_NETWORKS, Language


def batches(count: int = 4, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count * size, 6, generator=generator)
    y = torch.tanh(x @ torch.randn(6, 3, generator=generator))
    return list(zip(x.split(size), y.split(size), strict=True))


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.Tanh(), nn.Linear(16, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Sequence[Any]) -> list[float]:
    """Skips what is not finite, and reports it."""
    total = 0.0
    for x, y in data:
        optimizer.zero_grad()
        loss = functional.mse_loss(model(x), y)
        total += loss.item()
        if torch.isfinite(loss):
            loss.backward()
            optimizer.step()
    return [total / len(data)]


def hiding(model: nn.Module, optimizer: torch.optim.Optimizer, data: Sequence[Any]) -> list[float]:
    """Skips what is not finite, and says nothing of it."""
    finite = [(x, y) for x, y in data if torch.isfinite(functional.mse_loss(model(x), y))]
    return train(model, optimizer, finite)


def unguarded(model: nn.Module, optimizer: torch.optim.Optimizer, data: Sequence[Any]) -> list[float]:
    total = 0.0
    for x, y in data:
        optimizer.zero_grad()
        loss = functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return [total / len(data)]


def probed(
    model: nn.Module | None = None,
    loss: Callable[..., Any] = functional.mse_loss,
    data: Sequence[Any] | None = None,
    **options: Any,
) -> Findings:
    options = {"steps": 60, **options}
    return rislab.probe(model or network(), loss, batches() if data is None else data, **options)


def names(findings: Findings, severity: str = "fault") -> list[str]:
    return [finding.name for finding in findings if finding.severity == severity]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 16)
        self.out = nn.Linear(16, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embed(x)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.LSTM(6, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])  # type: ignore[no-any-return]


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 3, dtype=torch.complex64) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Two(nn.Module):
    """Sees two inputs, or one of them only."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.inner, self.both = network(), both

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.inner(a + b if self.both else a)  # type: ignore[no-any-return]


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().square().mean()


def classes(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(x, y.argmax(dim=1)) for x, y in batches(count)]


def frozen() -> nn.Module:
    model = network()
    model[0].requires_grad_(False)
    return model


CORRECT: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any], Callable[[], list[Any]]]] = {
    "frozen part": (frozen, functional.mse_loss, batches),
    "double": (
        lambda: network().double(), functional.mse_loss, lambda: [(x.double(), y.double()) for x, y in batches()]
    ),
    "soft labels": (
        lambda: nn.Sequential(network(), nn.Sigmoid()), functional.binary_cross_entropy,
        lambda: [(x, (y + 1) / 2) for x, y in batches()],
    ),
    "tied": (
        Tied, lambda a, b: functional.cross_entropy(a.flatten(0, 1), b.flatten()),
        lambda: [(torch.arange(20).reshape(4, 5) % 11, torch.arange(1, 21).reshape(4, 5) % 11)],
    ),
    "recurrent": (Recurrent, functional.mse_loss, lambda: [(x[:, None].repeat(1, 4, 1), y) for x, y in batches()]),
    "complex": (Complex, squared, lambda: [(x + 1j * x.flip(0), y + 0j) for x, y in batches()]),
    "two inputs": (lambda: Two(both=True), functional.mse_loss, lambda: [((x, x.flip(1)), y) for x, y in batches()]),
    "named inputs": (
        lambda: Two(both=True), functional.mse_loss, lambda: [({"a": x, "b": x.flip(1)}, y) for x, y in batches()]
    ),
    "one sample": (network, functional.mse_loss, lambda: batches(2, 1)),
}  # fmt: skip


def of_tables(name: str) -> tuple[nn.Module, Callable[..., Any] | None, list[Any]]:
    if name in CORRECT_NETWORKS:
        return CORRECT_NETWORKS[name]()
    make, loss, data = CORRECT[name]
    return make(), loss, data()


@pytest.mark.parametrize("name", [*CORRECT, *CORRECT_NETWORKS])
def test_a_correct_network_has_no_findings(name: str) -> None:
    torch.manual_seed(0)
    model, loss, data = of_tables(name)
    findings = rislab.probe(model, loss, data, steps=40)
    assert names(findings) == [], str(findings)
    assert names(findings, "warning") == [], str(findings)
    assert [finding for finding in findings if "Error" in finding.evidence] == []


def test_where_float16_does_not_run_the_rest_is_judged() -> None:
    class Picky(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("no such layer in float16")
            return super().forward(x)

    data = [(x, 1e4 * y) for x, y in batches()]
    findings = probed(Picky(6, 3), data=data, only=["P8"])
    assert [(finding.severity, finding.name) for finding in findings] == [
        ("note", "not judged"), ("note", "squares overflow in half precision"),
    ]  # fmt: skip


def test_poison_that_a_loop_hides_is_found() -> None:
    first = nn.Sequential(nn.Linear(6, 3))
    options: dict[str, Any] = {"only": ["P1"], "optimizer": torch.optim.SGD(first.parameters(), lr=0.1)}
    assert names(probed(first, train=hiding, **options)) == ["NaN replaced by the running mean"]
    assert names(probed(first, train=train, **options)) == []
    unsafe = probed(first, train=unguarded, **options)
    assert names(unsafe) == [] and names(unsafe, "note") == ["NaN reached a step"]
    bounded = nn.Sequential(nn.Sigmoid(), nn.Linear(6, 3))
    assert "still has a loss" in probed(bounded, train=train, only=["P1"])[0].evidence


def test_a_loop_that_stops_at_infinity_is_no_fault() -> None:
    def strict(model: nn.Module, optimizer: Any, data: Sequence[Any]) -> list[float]:
        raise FloatingPointError("loss is inf")

    findings = probed(nn.Sequential(nn.Linear(6, 3)), train=strict, only=["P1"])
    assert names(findings, "note") == ["stops at infinity"]


SMALLEST_ELSEWHERE = "the loss is not smallest at the truth"


def loaded(output: Tensor, target: Tensor) -> Tensor:
    return (output + 0.5 - target).square().mean()


def normalised(output: Tensor, target: Tensor) -> Tensor:
    return (output - target + 1).square().sum() / output.square().sum()


def crossed(output: Tensor, target: Tensor) -> Tensor:
    """The square written out, with a factor 1.5 for 2."""
    return (output.square() - 1.5 * output * target + target.square()).mean()


@pytest.mark.parametrize("loss", [loaded, normalised, crossed])
def test_a_loss_that_is_smaller_beyond_the_perfect_answer_is_found(loss: Callable[..., Any]) -> None:
    findings = probed(loss=loss, perfect=lambda target: target, only=["P2"])
    assert names(findings) == [SMALLEST_ELSEWHERE] and "at the perfect answer" in findings[0].evidence
    # Without a perfect answer that is given, the target may stand for something else.
    assert names(probed(loss=loss, only=["P2"])) == []
    assert names(probed(loss=loss, only=["P2"]), "warning") == [SMALLEST_ELSEWHERE]


class Factor(nn.Module):
    """Puts out complex factors of covariances."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(6, 32)

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = self.inner(x).reshape(2, -1, 8, 2)
        return torch.complex(real, imaginary)


@pytest.mark.parametrize("name", ["", SMALLEST_ELSEWHERE, "loaded on one side", "diagonal energy"])
def test_faults_of_the_loss_of_this_package_are_found(name: str) -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    truth = torch.randn(8, 8, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    with patched(*(fault for fault in FAULTS if fault.name == name)) as package:

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return package.data.covariance.nmse(output, target).mean()  # type: ignore[no-any-return]

        findings = probed(Factor(), loss, [(x, truth)], perfect=lambda target: target, only=["P2"])
        assert names(findings) == ([SMALLEST_ELSEWHERE] if name else [])
        assert names(probed(Factor(), loss, [(x, truth)], only=["P2"])) == []


def test_a_loss_that_undoes_a_normalisation_is_not_judged_without_a_perfect_answer() -> None:
    def scaled(output: Tensor, target: Tensor) -> Tensor:
        return (3 * output + 1 - target).square().mean()

    findings = probed(loss=scaled, only=["P2"])
    assert names(findings, "note") == ["not judged"] and len(findings) == 1
    assert probed(loss=scaled, perfect=lambda target: (target - 1) / 3, only=["P2"]) == []
    assert names(probed(loss=scaled, perfect=lambda target: target, only=["P2"])) == [SMALLEST_ELSEWHERE]


def test_a_smallest_value_above_0_is_a_note() -> None:
    make, loss, data = CORRECT["soft labels"]
    assert names(probed(make(), loss, data(), only=["P2"]), "note") == ["smallest value above 0"]


def test_a_root_at_the_perfect_answer_is_warned_of() -> None:
    findings = probed(loss=lambda a, b: (a - b).square().mean().sqrt(), only=["P2"])
    assert names(findings, "warning") == ["NaN at the perfect answer"]


class Normalised(nn.Module):
    """Normalises over the batch, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y - y.mean(dim=0)  # type: ignore[no-any-return]


class Mixed(nn.Module):
    """Takes the directions of its hidden state for samples."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(6, 8, bidirectional=True, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x[:, None])[1].view(len(x), 16))  # type: ignore[no-any-return]


def test_answers_that_depend_on_the_rest_of_the_batch_are_found() -> None:
    assert names(probed(Normalised(), only=["P3"])) == ["normalised over the batch"]
    attention = nn.Sequential(nn.Linear(6, 4), nn.Softmax(dim=0), nn.Linear(4, 3))
    assert names(probed(attention, only=["P3"])) == ["normalised over the batch"]
    assert names(probed(Mixed(), only=["P3"])) == ["the samples of a batch are mixed"]
    findings = probed(network(nn.BatchNorm1d(16)), only=["P3"])
    assert names(findings) == [] and names(findings, "note") == ["in-batch coupling"]
    # Its masks depend on the place of a sample, and on no other sample.
    assert list(probed(network(nn.Dropout(0.2)), only=["P3"])) == []
    assert "as BatchNorm does" in findings[0].evidence


def test_random_numbers_that_belong_to_a_place_mix_nothing() -> None:
    class Noisy(nn.Module):
        def __init__(self, places: bool) -> None:
            super().__init__()
            self.inner, self.places = network(), nn.Parameter(torch.arange(64.0)[:, None] * places)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x + 0.2 * torch.randn_like(x)) + self.places[: len(x)]  # type: ignore[no-any-return]

    assert list(probed(Noisy(places=False), only=["P3"])) == []

    class Placed(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.places[: len(x)]  # type: ignore[no-any-return]

    assert names(probed(Placed(places=True), only=["P3"])) == ["the samples of a batch are mixed"]


def test_a_network_whose_answers_are_nan_mixes_nothing() -> None:
    broken = network()
    with torch.no_grad():
        broken[0].weight.fill_(torch.nan)
    assert names(probed(broken, only=["P3"]), "note") == ["not judged"]


def test_attention_that_takes_the_batch_for_time_is_told_by_the_targets() -> None:
    class Forgotten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(6, 2), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0].mean(dim=1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    data = [(x[:, None] * torch.arange(1, 5)[:, None], y) for x, y in classes()]
    findings = probed(Forgotten(), functional.cross_entropy, data, only=["P3"])
    assert names(findings) == ["normalised over the batch"]


def test_samples_that_mix_in_training_mode_alone_are_found() -> None:
    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return y.roll(1, 0) if self.training else y  # type: ignore[no-any-return]

    findings = probed(Training(), only=["P3"])
    assert names(findings) == ["the samples of a batch are mixed"] and "in training mode" in findings[0].evidence


def test_an_evaluation_that_differs_the_second_time_is_found() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(self.inner(x), 0.5)

    findings = probed(Dropping(), only=["P11"])
    assert names(findings) == ["dropout in evaluation mode"] and "test_probes.py:" in findings[0].where
    assert probed(network(nn.Dropout(0.5)), only=["P11"]) == []


def test_a_loss_of_torch_that_gets_what_it_does_not_take_is_found() -> None:
    def divergence(output: Tensor, target: Tensor) -> Tensor:
        return functional.kl_div(functional.softmax(output, dim=1), target, reduction="batchmean")

    pairs = [(x, functional.softmax(y, dim=1)) for x, y in batches()]
    findings = probed(loss=divergence, data=pairs, only=["P2"])
    assert names(findings) == [SMALLEST_ELSEWHERE] and "logarithms of probabilities" in findings[0].evidence
    signs = [(x, y.sign()) for x, y in batches()]
    findings = probed(loss=functional.binary_cross_entropy_with_logits, data=signs, only=["P2"])
    assert names(findings) == [SMALLEST_ELSEWHERE] and "test_probes.py" not in findings[0].evidence


def test_an_input_that_is_not_used_is_found() -> None:
    pairs = [((x, x.flip(1)), y) for x, y in batches()]
    findings = probed(Two(both=False), data=pairs, only=["P4"])
    assert names(findings) == ["network never sees an input"] and "input 2" in findings[0].evidence
    named = [({"a": x, "b": x.flip(1)}, y) for x, y in batches()]
    assert "input b" in probed(Two(both=False), data=named, only=["P4"])[0].evidence

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.value.expand(len(x), 3)

    assert names(probed(Constant(), only=["P4"])) == ["constant answer"]
    alike = [(torch.ones_like(x), y) for x, y in batches()]
    assert names(probed(data=alike, only=["P4"])) == []


def test_a_head_that_begins_at_zero_is_no_constant() -> None:
    model = network()
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    assert names(probed(model, only=["P4"])) == []


class Cut(nn.Module):
    """Learns with its last layer only, or not at all."""

    def __init__(self, *, severed: bool) -> None:
        super().__init__()
        self.inner, self.head, self.severed = network(), nn.Linear(3, 3), severed

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).detach()
        return y * self.head.weight.sum() * 0 if self.severed else self.head(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("severed", [False, True])
def test_answers_that_are_bounded_are_learned_as_far_as_they_go(severed: bool) -> None:
    """Free answers have losses far below 0, which logarithms of probabilities and a tanh never reach."""
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    for end, loss, target in (
        (nn.LogSoftmax(1), nn.NLLLoss(), torch.arange(8) % 3),
        (nn.Tanh(), lambda output, target: -(output * target).mean(), torch.ones(8, 3) - 2 * torch.eye(8, 3)),
    ):
        model = nn.Sequential(Cut(severed=True) if severed else network(), end)
        findings = rislab.probe(model, loss, [(x, target)], only=["P5"])
        assert ("one batch is not learned" in names(findings)) == severed
        assert severed or names(findings, "warning") == []


def test_what_cannot_learn_is_found() -> None:
    findings = probed(Cut(severed=True), only=["P5"])
    assert names(findings) == ["one batch is not learned"]
    cut = probed(Cut(severed=False), only=["P5"])
    assert "detached backbone" in names(cut, "warning")
    model = network()
    model.requires_grad_(False)
    assert names(probed(model, only=["P5"])) == ["head frozen"]
    detached = probed(loss=lambda output, target: functional.mse_loss(output.detach(), target), only=["P5"])
    assert names(detached) == ["loss detached"]
    flat = probed(loss=lambda output, target: functional.mse_loss(output.detach() + 0 * output, target), only=["P5"])
    assert names(flat) == ["one batch is not learned"]


def test_a_distance_that_is_maximised_is_found() -> None:
    """At the target it is largest; a reward, which rises without end as well, has a slope there and may be meant."""
    findings = probed(loss=lambda output, target: -functional.mse_loss(output, target), only=["P2"])
    assert names(findings, "warning") == ["the loss is not smallest at the truth"]
    reward = probed(loss=lambda output, target: -(output * target).mean(), only=["P2"])
    assert names(reward) == names(reward, "warning") == []


@pytest.mark.parametrize(
    ("end", "loss", "fault"),
    [
        (nn.Softmax(1), nn.CrossEntropyLoss(), "probabilities where logits belong"),
        (nn.Softmax(1), nn.NLLLoss(), "the loss is not smallest at the truth"),
        (
            nn.Softmax(1),
            lambda output, target: functional.cross_entropy(input=output, target=target) + 1,
            "probabilities where logits belong",
        ),
        (nn.Identity(), nn.CrossEntropyLoss(), ""),
        (nn.LogSoftmax(1), nn.NLLLoss(), ""),
    ],
)
def test_what_a_loss_is_given_is_told_as_in_a_watched_loop(
    end: nn.Module, loss: Callable[..., Any], fault: str
) -> None:
    data = [(x, y.argmax(1)) for x, y in batches()]
    assert names(probed(nn.Sequential(network(), end), loss, data, only=["P2"])) == [fault] * bool(fault)


class Unregistered(nn.Module):
    """With layers that its list does not register, or with them shared by a network that holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = [nn.Linear(6, 6)], nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x).tanh()
        return self.head(x)  # type: ignore[no-any-return]


def test_layers_that_are_not_registered_are_found() -> None:
    model = Unregistered()
    assert "tensors that no optimiser holds" in names(probed(model, only=["P5"]), "warning")
    of_all = torch.optim.Adam([*model.parameters(), *model.hidden[0].parameters()])
    assert names(probed(model, optimizer=of_all, only=["P5"]), "warning") == []
    attacked = [(x + torch.zeros(6, requires_grad=True), y) for x, y in batches()]
    assert names(probed(data=attacked, only=["P5"]), "warning") == []


class NextToken(nn.Module):
    """Foretells tokens from those before, or from all."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.embedding, self.causal = nn.Embedding(20, 16), causal
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]) if self.causal else None
        return self.head(self.layer(self.embedding(tokens), src_mask=mask))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("causal", "shift", "severity", "expected"),
    [
        (True, 1, "fault", []),
        (False, 1, "fault", ["the target is visible in the input"]),
        (True, 0, "warning", ["labels never shifted"]),
        (False, 0, "warning", []),
    ],
)
def test_targets_that_are_tokens_are_looked_at_as_in_a_watched_loop(
    causal: bool, shift: int, severity: str, expected: list[str]
) -> None:
    tokens = torch.randint(20, (24, 11), generator=torch.Generator().manual_seed(0))
    data = [(part[:, :10], part[:, shift : 10 + shift]) for part in tokens.split(8)]
    loss = nn.CrossEntropyLoss()
    findings = probed(NextToken(causal=causal), lambda o, t: loss(o.flatten(0, 1), t.flatten()), data, only=["P2"])
    assert names(findings, severity) == expected


def test_evaluation_by_another_network_is_found() -> None:
    slow = network(nn.BatchNorm1d(16, momentum=1e-9))
    with torch.no_grad():
        slow[0].bias += 30.0
    assert names(probed(slow, only=["P6"]), "warning") == ["evaluation is another network"]

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = network(), network()
            nn.init.normal_(self.two[-1].weight)

        def forward(self, x: Tensor) -> Tensor:
            return (self.one if self.training else self.two)(x)  # type: ignore[no-any-return]

    assert names(probed(Other(), only=["P6"]), "warning") == ["evaluation is another network"]


class Counting(nn.Module):
    """Keeps a state of its own, outside or inside of what is saved."""

    def __init__(self, *, saved: bool) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("calls", torch.zeros(()), persistent=saved)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x) * self.calls  # type: ignore[no-any-return]


def test_state_that_no_file_holds_is_found() -> None:
    assert names(probed(Counting(saved=False), only=["P7"])) == ["state outside of state_dict"]
    assert names(probed(Counting(saved=True), only=["P7"])) == []

    class Drawing(nn.Module):
        source: Any

        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x + self.source.random())  # type: ignore[no-any-return]

    # Numbers of a generator begin anew for each try; those of the system cannot.
    Drawing.source = np.random
    assert names(probed(Drawing(), only=["P7"])) == []
    Drawing.source = random.SystemRandom()
    assert names(probed(Drawing(), only=["P7"]), "note") == ["not judged"]


def test_what_half_precision_cannot_hold_is_told() -> None:
    big = [(x, 100 * y) for x, y in batches(2, 64)]
    assert "squares" in names(probed(data=big, only=["P8"]), "note")[0]
    half = network().half()
    pairs = [(x.half(), 1000 * y.half()) for x, y in batches()]
    assert names(probed(half, lambda a, b: (a - b).square().sum(), pairs, only=["P8"])) == [
        "squares overflow in half precision"
    ]
    slow = network().bfloat16()
    options: dict[str, Any] = {"optimizer": torch.optim.SGD(slow.parameters(), lr=1e-6), "only": ["P8"]}
    pairs = [(x.bfloat16(), y.bfloat16()) for x, y in batches()]
    assert names(probed(slow, data=pairs, **options)) == ["weights kept in bf16"]


def test_samples_that_come_twice_are_counted() -> None:
    data = batches()
    assert names(probed(data=[*data, data[0]], only=["P9"]), "warning") == ["duplicate samples"]
    few = [(torch.tensor([[1], [2], [1], [2]]), torch.zeros(4, 3))]
    assert [one.severity for one in probed(nn.Embedding(3, 3), data=few, held_out=few, only=["P9"])] == ["note"] * 2
    findings = probed(data=data, held_out=[(data[1][0][:3], data[1][1][:3])], only=["P9"])
    assert names(findings) == ["split leakage"] and "3 of 3" in findings[0].evidence
    assert names(probed(data=data[:2], held_out=data[2:], only=["P9"])) == []


def test_a_forward_that_sets_the_seed_is_found() -> None:
    class Seeding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            torch.manual_seed(0)
            return self.inner(x + 0.01 * torch.randn_like(x))  # type: ignore[no-any-return]

    assert names(probed(Seeding(), only=["P9"])) == ["random state set in the forward"]
    assert names(probed(network(nn.Dropout(0.5)), only=["P9"])) == []


def test_coupling_within_the_batch_is_a_note() -> None:
    findings = probed(network(nn.BatchNorm1d(16)), only=["P10"])
    assert names(findings, "note") == ["in-batch coupling"] and names(findings) == []
    assert probed(only=["P10"]) == []
    ragged = [*batches(2), (batches()[3][0][:3], batches()[3][1][:3])]
    assert probed(data=ragged, only=["P10"]) == []


def test_micro_batches_of_other_lengths_and_token_counts_add_up_to_their_window() -> None:
    ids = torch.randint(1, 12, (24, 7), generator=torch.Generator().manual_seed(0))
    data = []
    for rows, length in zip(ids.split(8), (7, 5, 6), strict=True):
        mask = torch.arange(length) < 2 + torch.arange(8)[:, None] % (length - 1)
        short = rows[:, :length]
        data.append({"input_ids": short, "attention_mask": mask.long(), "labels": short.masked_fill(~mask, -100)})
    torch.manual_seed(0)
    assert rislab.probe(Language(), None, data, only=["P10", "P8"]) == []


def failing(output: Tensor, target: Tensor) -> Tensor:
    raise ZeroDivisionError("no loss today")


@pytest.mark.parametrize("loss", [functional.mse_loss, failing])
def test_nothing_that_was_given_is_changed(loss: Callable[..., Any]) -> None:
    model = network(nn.BatchNorm1d(16), nn.Dropout(0.3)).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    data = batches()
    before = copy.deepcopy((state_bytes(model), optimizer.state_dict(), data))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    probed(model, loss, data, optimizer=optimizer, train=train, held_out=batches(1))
    assert torch.equal(state_bytes(model), before[0]) and not model.training
    assert all(value.grad is None for value in model.parameters())
    assert str(optimizer.state_dict()) == str(before[1])
    assert all(
        torch.equal(a, b) for new, old in zip(data, before[2], strict=True) for a, b in zip(new, old, strict=True)
    )
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert bool((np.random.get_state()[1] == states[2]).all())


def test_what_fails_is_not_judged_and_the_rest_goes_on() -> None:
    findings = probed(loss=failing)
    assert {finding.name for finding in findings if "ZeroDivisionError" in finding.evidence} == {"not judged"}
    assert {finding.code for finding in findings} >= {"P2", "P5", "P7", "P10"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": []}, "data is empty"),
        ({"data": [torch.ones(2)]}, r"data\[0\] is a Tensor"),
        ({"data": [(1, 2)]}, r"data\[0\] is a tuple"),
        ({"only": ["P12"]}, "only is 'P12'"),
        ({"steps": 0}, "steps is 0"),
        ({"accumulation_steps": 0}, "accumulation_steps is 0"),
        ({"loss": 3}, "loss is a int"),
        ({"scheduler": object()}, "scheduler is given without its optimizer"),
        ({"train": "mine"}, "train is a str"),
        ({"held_out": [3]}, r"held_out\[0\] is a int"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        probed(**change)
    with pytest.raises(InputError, match="model is a int"):
        rislab.probe(3, functional.mse_loss, batches())  # type: ignore[arg-type]


def test_there_are_eleven() -> None:
    assert list(PROBES) == [f"P{number}" for number in range(1, 12)]
