"""Arguments that a loss cannot make sense of are named at its line, and right ones never."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import watch
from rislab.checkup.process_watch import ProcessWatch

X = torch.linspace(-2, 2, 48).reshape(16, 3)
LABELS = torch.arange(16) % 4
VALUES = X.sum(1)
YES = (VALUES > 0).float()

Loss = Callable[[Tensor], Tensor]


def train(loss: Loss, outputs: int = 4, last: nn.Module | None = None) -> None:
    """Five steps of a small network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, outputs), last or nn.Identity())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss(model(X)).backward()
        optimizer.step()


def named(findings: Findings) -> list[tuple[str, str]]:
    """Kinds and names of the findings of this rule."""
    return [(one.severity, one.name) for one in findings if one.code == "C15"]


def in_process(loss: Loss, outputs: int = 4, last: nn.Module | None = None) -> list[tuple[str, str]]:
    """What is found in the process."""
    with ProcessWatch() as process:
        train(loss, outputs, last)
    return named(process.findings())


CE, BCE, NLL = (
    functional.cross_entropy,
    functional.binary_cross_entropy_with_logits,
    functional.nll_loss,
)
SOFTMAX, LOG_SOFTMAX = nn.Softmax(1), nn.LogSoftmax(1)
SOFT = functional.one_hot(LABELS, 4).float() * 0.8 + 0.05
WRONG: list[tuple[str, Loss, int, nn.Module | None]] = [
    ("arguments that broadcast", lambda out: functional.mse_loss(out, VALUES), 1, None),
    ("probabilities where logits belong", lambda out: CE(out, LABELS), 4, SOFTMAX),
    ("probabilities where logits belong", lambda out: BCE(out.squeeze(1), YES), 1, nn.Sigmoid()),
    ("logits that cannot be negative", lambda out: BCE(out.view(-1), YES), 1, nn.ReLU()),
    ("targets outside of 0 to 1", lambda out: BCE(out.squeeze(1), 2 * YES - 1), 1, None),
    ("probabilities where their logarithm belongs", lambda out: NLL(out, LABELS), 4, SOFTMAX),
    ("logits where log-probabilities belong", lambda out: NLL(out, LABELS), 4, None),
    ("probabilities where their logarithm belongs", lambda out: functional.kl_div(out, SOFT), 4, SOFTMAX),
    ("log-probabilities where probabilities belong", lambda out: functional.kl_div(out, SOFT.log()), 4, LOG_SOFTMAX),
]
UNIT = functional.normalize


def ctc(out: torch.Tensor) -> torch.Tensor:
    """Of four rows, each with four places and a text of one letter."""
    rows = torch.full((4,), 4)
    return functional.ctc_loss(out.view(4, 4, 6), LABELS[:4, None] + 1, rows, torch.ones_like(rows))


SIGNS, RATES = 2 * YES - 1, VALUES.abs()
WRONG += [
    ("loss of one class", lambda out: CE(out, YES[:, None]), 1, None),
    ("compared with itself", lambda out: functional.mse_loss(out, out.detach()), 4, None),
    ("input and target exchanged", lambda out: BCE(YES, out.sigmoid().squeeze(1)), 1, None),
    ("targets other than 1 and -1", lambda out: functional.soft_margin_loss(out.squeeze(1), YES), 1, None),
    ("targets other than 1 and -1", lambda out: functional.hinge_embedding_loss(out.square().sum(1), YES), 4, None),
    ("targets other than 1 and -1", lambda out: functional.cosine_embedding_loss(out, X[:, :2], YES) / 4, 2, None),
    ("rates where their logarithm belongs", lambda out: functional.poisson_nll_loss(out.view(-1), 3 * RATES), 1,
     nn.Softplus()),
    ("compared with itself", lambda out: CE(5 * UNIT(out) @ UNIT(out).t(), torch.arange(16).roll(1)), 4, None),
    ("logit of the target is constant", lambda out: CE(5 * UNIT(out) @ UNIT(out).t(), torch.arange(16)), 4, None),
    ("compared with itself", lambda out: functional.triplet_margin_loss(out, out, out.roll(1, 0)), 4, None),
    ("compared with itself", lambda out: functional.triplet_margin_loss(out, out.clone(), out.roll(1, 0)), 4, None),
    ("logits where log-probabilities belong", lambda out: ctc(out), 6, None),
    ("normalised along another axis", lambda out: NLL(out, LABELS), 4, nn.LogSoftmax(0)),
    ("normalised along another axis", lambda out: functional.binary_cross_entropy(out, YES[:, None]), 1, SOFTMAX),
    ("axes exchanged by a view", lambda out: CE(out.view(4, 4, 6).view(4, 6, 4), LABELS.view(4, 4)), 6, None),
    ("axes exchanged by a view", lambda out: CE(out.view(4, 2, 2, 6).view(4, 6, 2, 2), LABELS.view(4, 2, 2)), 6,
     None),
    ("targets that no answer reaches", lambda out: functional.mse_loss(out, VALUES[:, None]), 1, nn.ReLU()),
    ("targets that no answer reaches", lambda out: functional.l1_loss(out, 5 * VALUES[:, None]), 1, nn.Tanh()),
]  # fmt: skip
WRONG += [("targets of several classes", lambda out: CE(out, (X > 0).float()), 3, None)]
MAY_BE_MEANT = (
    "targets of several classes",
    "logits where log-probabilities belong", "input and target exchanged", "rates where their logarithm belongs",
)  # fmt: skip
OF_BOTH = ("arguments that broadcast", "compared with itself")
RIGHT: list[tuple[Loss, int, nn.Module | None]] = [
    (lambda out: functional.mse_loss(out.squeeze(1), VALUES), 1, None),
    (lambda out: functional.mse_loss(out, VALUES[:, None]), 1, None),
    (lambda out: functional.mse_loss(out[:, :, None], X[:, None, :], reduction="none").mean(), 4, None),
    (lambda out: functional.mse_loss(out, VALUES[:, None].abs()), 1, nn.ReLU()),
    # What is below 0 is noise, or a small part of the targets.
    (lambda out: functional.mse_loss(out, 9 * VALUES[:, None].abs() + VALUES[:, None]), 1, nn.ReLU()),
    (lambda out: functional.mse_loss(out, (VALUES + 3 * VALUES.std())[:, None]), 1, nn.Softplus()),
    (lambda out: functional.mse_loss(out, VALUES[:, None].tanh()), 1, nn.Tanh()),
    (lambda out: CE(out, LABELS), 4, None),
    (lambda out: CE(out, LABELS), 4, LOG_SOFTMAX),
    (lambda out: BCE(out.squeeze(1), YES), 1, None),
    (lambda out: NLL(out, LABELS), 4, LOG_SOFTMAX),
    (lambda out: ctc(out), 6, LOG_SOFTMAX),
    (lambda out: CE(out, SOFT), 4, None),
    (lambda out: CE(out, functional.one_hot(LABELS, 4).float()), 4, None),
    (lambda out: CE(out, functional.normalize((X > 0) + 1e-3, 1)), 3, None),
    (lambda out: functional.kl_div(out, SOFT), 4, LOG_SOFTMAX),
    (lambda out: functional.kl_div(out, SOFT.log(), log_target=True), 4, LOG_SOFTMAX),
    (lambda out: functional.soft_margin_loss(out.squeeze(1), SIGNS), 1, None),
    (lambda out: functional.margin_ranking_loss(out[:, 0], out[:, 1], SIGNS), 2, None),
    (lambda out: functional.poisson_nll_loss(out.view(-1), RATES), 1, None),
    (lambda out: functional.poisson_nll_loss(out.view(-1), RATES, log_input=False), 1, nn.Softplus()),
    (lambda out: functional.mse_loss(out, out.detach() + 1), 4, None),
    (lambda out: CE(5 * UNIT(out) @ UNIT(out + 0.1 * X[:, :1]).t(), torch.arange(16)), 4, None),
    (lambda out: CE((5 * UNIT(out) @ UNIT(out).t()).fill_diagonal_(-9), torch.arange(16).roll(1)), 4, None),
    (lambda out: functional.triplet_margin_loss(out, out + 0.1, out.roll(1, 0)), 4, None),
    (lambda out: functional.binary_cross_entropy(out[:, :1], YES[:, None]), 2, SOFTMAX),
    (lambda out: CE(out.view(4, 4, 6).permute(0, 2, 1), LABELS.view(4, 4)), 6, None),
    (lambda out: CE(out.view(4, 4, 6).permute(0, 2, 1).contiguous().view(4, 6, 4), LABELS.view(4, 4)), 6, None),
    # All classes of all places in one axis may be in any order.
    (lambda out: CE(out.view(16, 4, 6).view(16, 6, 4), LABELS[:, None].expand(16, 4)), 24, None),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "loss", "outputs", "last"), WRONG)
def test_a_wrong_argument_is_named(name: str, loss: Loss, outputs: int, last: nn.Module | None) -> None:
    ((severity, found),) = in_process(loss, outputs, last)
    assert found == name
    certain = name == "logits where log-probabilities belong" and outputs == 6  # ctc_loss() has no other way
    if name not in OF_BOTH and not certain:
        assert severity == ("warning" if name in MAY_BE_MEANT else "fault")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("loss", "outputs", "last"), RIGHT)
def test_a_right_argument_is_not(loss: Loss, outputs: int, last: nn.Module | None) -> None:
    assert in_process(loss, outputs, last) == []


@pytest.mark.parametrize(
    "loss",
    [
        # Equal ones have a target of 0 where pairs are in order; what is to be left out, where another loss is trained.
        lambda out: functional.margin_ranking_loss(out[:, 0], out[:, 1], YES),
        lambda out: functional.cosine_embedding_loss(out, X[:, :2], YES) + out.square().mean(),
        lambda out: functional.soft_margin_loss(out[:, 0], YES * (1 - 2 * (VALUES > 1).float())),
    ],
)
def test_targets_of_0_may_be_meant(loss: Loss) -> None:
    assert in_process(loss, 2) == [("warning", "targets other than 1 and -1")]


def test_rates_below_1_have_logarithms_below_0() -> None:
    def loss(out: torch.Tensor) -> torch.Tensor:
        return functional.poisson_nll_loss(out.view(-1), RATES / 4)

    assert in_process(loss, 1, nn.Softplus()) == [("fault", "rates where their logarithm belongs")]


@pytest.mark.filterwarnings("ignore")
def test_a_column_against_a_vector_is_a_fault_also_under_a_declared_loss() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for loss in (nn.MSELoss(), functional.mse_loss, None):
        with watch(model, optimizer, loss=loss) as watching:
            for _ in range(3):
                optimizer.zero_grad()
                (loss or nn.MSELoss())(model(X), VALUES).backward()
                optimizer.step()
        findings = watching.findings()
        assert named(findings) == [("fault", "arguments that broadcast")]
        assert "(16, 1) against (16,)" in findings[0].evidence and __file__ in findings[0].where
        assert len(watching.trace.micro_batches) == 3


def test_losses_besides_the_declared_one_are_not_recorded() -> None:
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = nn.CrossEntropyLoss()
    with watch(model, optimizer, loss=loss) as watching:
        for _ in range(3):
            optimizer.zero_grad()
            functional.l1_loss(model(X), torch.zeros(16, 4))
            loss(model(X), LABELS).backward()
            optimizer.step()
    assert len(watching.trace.micro_batches) == 3


def test_a_softmax_now_and_then_is_no_finding() -> None:
    calls: list[int] = []

    def loss(out: Tensor) -> Tensor:
        calls.append(1)
        return CE(out.softmax(1) if len(calls) % 2 else out, LABELS)

    assert in_process(loss) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logits", "probabilities", "classes", "itself", "once itself"])
def test_losses_of_an_evaluation_are_looked_at_too(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    with ProcessWatch() as process:
        train(lambda out: CE(out, LABELS))
        for number in range(4):
            with torch.no_grad():
                output = model(X)
                if "itself" in kind:
                    functional.mse_loss(output, output if number or kind == "itself" else output + 1)
                else:
                    sure = functional.one_hot(output.argmax(1), 4).float()
                    CE({"logits": output, "classes": sure}.get(kind, output.softmax(1)), LABELS)
    expected = {
        "probabilities": [("fault", "probabilities where logits belong")],
        "classes": [("warning", "probabilities where logits belong")],
        "itself": [("warning", "compared with itself")],
    }
    assert named(process.findings()) == expected.get(kind, [])


def test_what_training_makes_normal_was_given_as_logits() -> None:
    """The gradient of ctc_loss() is that of rows that are normalised: they become so."""
    torch.manual_seed(0)
    model = nn.Linear(5, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    given, lengths = torch.rand(8, 4, 5), torch.full((4,), 8)
    logits = torch.empty(0)
    with ProcessWatch() as process:
        for _ in range(120):
            optimizer.zero_grad()
            logits = model(given)
            functional.ctc_loss(logits, torch.ones(4, 2, dtype=torch.long), lengths, torch.full((4,), 2)).backward()
            optimizer.step()
    assert float((logits.detach().exp().sum(2) - 1).abs().median()) < 0.2
    found = [(one.severity, one.name) for one in process.findings() if one.code == "C15"]
    assert found == [("fault", "logits where log-probabilities belong")]
